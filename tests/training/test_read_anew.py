"""Runs whose training images are read from their files in every epoch: exact, honest about damage, small on disk."""

import os
from pathlib import Path

import pytest

from tests.conftest import draw_folder
from tests.training.runs import losses, same, small_run, train, weights
from volo.data.decoded import cache
from volo.errors import InputError
from volo.runs.records import read_records

CUT = dict(augment=dict(crop_area=(0.3, 1.0)))
FILES, DECODED = (dict(data=dict(image_store=store)) for store in ("files", "decoded"))


@pytest.fixture
def store(tmp_path, monkeypatch) -> Path:
    """The image cache of this test alone."""
    folder = tmp_path / "store"
    monkeypatch.setenv("VOLO_CACHE_DIR", str(folder))
    return folder


def run(tmp_path: Path, images: Path, name: str, *parts: dict, **overrides) -> Path:
    values: dict = dict(run=dict(run_name=name), **overrides)
    for part in parts:
        values = values | {section: values.get(section, {}) | settings for section, settings in part.items()}
    return train(small_run(tmp_path, images, **values))


def test_a_run_stopped_in_mid_epoch_and_resumed_with_other_readers_ends_as_the_undisturbed_one(tmp_path, folder):
    whole = run(tmp_path, folder, "whole", CUT, dict(run=dict(num_readers=0)))
    for readers, stop in ((2, 5), (1, None)):
        stopped = run(tmp_path, folder, "stopped", CUT, dict(run=dict(num_readers=readers)), optim=dict(max_steps=stop))
    assert same(weights(stopped), weights(whole))
    assert losses(stopped) == losses(whole)
    assert not same(weights(whole), weights(run(tmp_path, folder, "plain")))


def test_files_give_the_weights_that_decoded_images_give(tmp_path, folder):
    decoded, files = run(tmp_path, folder, "decoded", DECODED), run(tmp_path, folder, "files", FILES)
    assert same(weights(files), weights(decoded))


def test_images_that_find_no_room_decoded_stay_in_their_files_and_that_is_said(tmp_path, folder, store, monkeypatch):
    """64 training images, 16 to validate and 20 to test take 300 KB at 32 pixels."""
    decoded = run(tmp_path, folder, "decoded")
    other = tmp_path / "other"
    monkeypatch.setenv("VOLO_CACHE_DIR", str(other))
    monkeypatch.setattr(cache, "free_bytes", lambda path: 200_000 - held_in(other))
    files = run(tmp_path, folder, "files")
    assert same(weights(files), weights(decoded))
    notes = [record["text"] for record in read_records(files) if record["kind"] == "note"]
    assert "training images are read anew in every epoch" in notes[0]
    with pytest.raises(InputError, match="the image cache must have room"):
        run(tmp_path, folder, "refused", DECODED)


def held_in(store: Path) -> int:
    """Bytes."""
    return sum(file.stat().st_size for file in store.rglob("*.bin"))


def test_the_cache_holds_little_of_images_that_are_cut_at_random(tmp_path, folder, store):
    run(tmp_path, folder, "cut", CUT, data=dict(image_size=64))
    assert held_in(store) < 64 * 1024 + 36 * (
        64 * 64 * 3 + 24
    )  # 1 KB an image to train on, and what is validated and tested on


def damage(folder: Path) -> list[Path]:
    files = sorted((folder / "train" / "cat").iterdir())[:3]
    files[0].write_bytes(b"")
    files[1].write_bytes(files[1].read_bytes()[:80])
    files[2].write_bytes(b"no image")
    return files


def test_every_damaged_file_is_named_before_the_first_step(tmp_path, folder, store):
    damaged = damage(folder)
    with pytest.raises(InputError, match=r"3 of 100 that are not(?s:.*)or leave out damaged images") as error:
        run(tmp_path, folder, "cut", CUT)
    assert all(str(file) in str(error.value) for file in damaged)
    assert not (tmp_path / "outputs" / "cut" / "metrics.jsonl").exists()


@pytest.mark.slow
def test_training_goes_on_without_the_damaged_ones_where_that_is_asked_for(tmp_path, folder, store):
    damaged = damage(folder)
    found = run(tmp_path, folder, "cut", CUT, data=dict(skip_damaged=True))
    for file in damaged:
        os.remove(file)
    listed = (found / "damaged_images.txt").read_text()
    assert all(str(file) in listed for file in damaged)
    again = run(tmp_path, folder, "again", CUT)
    assert {record["epoch"] for record in read_records(again) if record["kind"] == "epoch"} == {1, 2, 3}


@pytest.mark.slow
def test_a_teacher_and_a_whitened_stem_see_images_that_are_not_decoded(tmp_path, folder, store):
    source = draw_folder(tmp_path / "more", {"train": {"cat": 80, "dog": 80}}, size=40)
    teacher = run(tmp_path, source, "teacher", CUT, optim=dict(whiten_stem=True))
    taught = run(tmp_path, source, "taught", CUT, teaching=dict(teacher=str(teacher), distillation=0.5))
    assert not same(weights(taught), weights(run(tmp_path, source, "alone", CUT)))
