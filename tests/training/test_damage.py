"""Runs on data with damaged images: refused with all of them, or trained without and said so."""

import numpy as np
import pytest

from tests.conftest import draw_folder
from tests.training.runs import small_run, train
from volo.analysis.subject import open_validation, open_view
from volo.data.decoded.store import RECORD
from volo.errors import InputError
from volo.runs import checkpoint
from volo.runs.listing import CONFIG
from volo.runs.records import read_records

SKIP = {"data": dict(skip_damaged=True), "optim": dict(epochs=1)}


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("VOLO_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def damaged(folder) -> list[str]:
    names = [f"train/cat/{number:04d}.png" for number in range(10)] + ["train/dog/0003.png", "test/dog/0001.png"]
    for name in names:
        (folder / name).write_bytes((folder / name).read_bytes()[:200])
    return [str(folder / name) for name in names]


def num_decoded(cache) -> int:
    return len(keys_of(cache))


def keys_of(cache) -> list[bytes]:
    return [key for file in cache.glob("*/index.bin") for key in np.fromfile(file, RECORD)["key"].tolist()]


def test_all_damaged_images_of_all_splits_are_named_before_anything_is_trained(tmp_path, folder, damaged):
    with pytest.raises(InputError, match="got 12 of 100 that are not") as refused:
        train(small_run(tmp_path, folder))
    assert str(refused.value).endswith("; fix or remove them, or leave out damaged images with --skip-damaged")
    assert all(name in str(refused.value) for name in damaged)
    assert not list(tmp_path.rglob("step_*"))


def test_a_run_that_skips_damaged_images_lists_them_resumes_and_is_analyzed(tmp_path, folder, damaged, capsys):
    run_dir = train(small_run(tmp_path, folder, data=SKIP["data"], optim=dict(epochs=2, max_steps=2)))
    said = next(record["text"] for record in read_records(run_dir) if record["kind"] == "note")
    assert "11 damaged images are left out, listed in" in said
    listed = (run_dir / "damaged_images.txt").read_text().splitlines()
    assert [line.split(" (")[0] for line in listed] == damaged[:-1]
    capsys.readouterr()
    train(small_run(tmp_path, folder, data=SKIP["data"], optim=dict(epochs=2)))
    assert "resuming at step 2" in capsys.readouterr().out
    _, description = checkpoint.load_model(checkpoint.newest(run_dir))
    test, val = open_view(description, "test"), open_validation(description, None)
    assert len(test.labels) == 19
    assert "1 damaged images were left out." in " ".join(test.notes)
    files = [val.images.source.name_of(number) for number in val.index]
    assert len(files) and not {*files} & {*damaged}


def test_images_damaged_since_a_run_began_are_refused_by_name(tmp_path, folder):
    train(small_run(tmp_path, folder, optim=dict(max_steps=2)))
    (folder / "train" / "dog" / "0003.png").write_bytes(b"broken")
    with pytest.raises(InputError, match=r"got others in .*: 1 changed \(train/dog/0003.png\)"):
        train(small_run(tmp_path, folder, data=dict(skip_damaged=True)))


def test_a_class_of_damaged_images_alone_cannot_be_skipped(tmp_path, folder):
    for file in (folder / "train" / "dog").iterdir():
        file.write_bytes(b"broken")
    with pytest.raises(InputError, match="a class must hold a readable image, got none in dog, with 40"):
        train(small_run(tmp_path, folder, **SKIP))


def test_a_subset_to_train_on_is_decoded_with_its_validation_images_and_no_more(tmp_path, own_cache):
    folder = draw_folder(tmp_path / "images", {"train": {"cat": 40, "dog": 40}})
    run_dir = train(small_run(tmp_path, folder, data=dict(train_images=20), optim=dict(epochs=1)))
    assert num_decoded(own_cache) == 20 + 16
    _, description = checkpoint.load_model(checkpoint.newest(run_dir))
    before = keys_of(own_cache)
    own_cache.rename(tmp_path / "another")
    view = open_view(description, "val")
    assert num_decoded(own_cache) == 16
    assert {*keys_of(own_cache)} < {*before}
    assert np.bincount(view.labels).tolist() == [8, 8]
    train(small_run(tmp_path, folder, data=dict(train_images=20), optim=dict(epochs=1)))


def test_a_run_from_before_resumes_with_and_without_its_fraction_stated(tmp_path, folder, capsys):
    """Then the default was written into its settings; now the data may decide."""
    stated = small_run(tmp_path, folder, data=dict(val_fraction=0.1), optim=dict(max_steps=2))
    run_dir = train(stated)
    assert "val_fraction: 0.1" in (run_dir / CONFIG).read_text()
    train(small_run(tmp_path, folder, data=dict(val_fraction=None), optim=dict(max_steps=3)))
    train(small_run(tmp_path, folder, data=dict(val_fraction=0.1), optim=dict(max_steps=4)))
    assert capsys.readouterr().out.count("resuming at step") == 2
    draw_folder(folder, {"valid": {"cat": 4, "dog": 4}})
    with pytest.raises(InputError, match=r"or --val-fraction 0\.1 was what it held out"):
        train(small_run(tmp_path, folder, data=dict(val_fraction=None)))
    train(small_run(tmp_path, folder, data=dict(val_fraction=0.1), optim=dict(max_steps=5)))
