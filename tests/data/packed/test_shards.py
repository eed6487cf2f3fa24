"""Packed images on object storage: the images of the folder, whether their shards are on the node or not."""

import threading
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from tests.storage.conftest import s3 as s3
from tests.storage.conftest import server as server
from tests.storage.copies import machine
from tests.storage.server import DROP, LOSE_ANSWER, first
from tests.training.runs import losses, same, small_run, train, weights
from volo.analysis.subject import open_view
from volo.cli import train as job
from volo.cli.outcome import exit_code
from volo.data.folders.imagefolder import ImageFolder
from volo.data.packed import FILE, shards
from volo.data.packed.index import Shard, read_index, write_index
from volo.data.packed.packing import pack
from volo.data.packed.source import PackedFolder
from volo.errors import InputError
from volo.runs import checkpoint
from volo.storage import ranges
from volo.storage.bucket import Bucket


@pytest.fixture
def packed(folder, tmp_path) -> Path:
    pack(folder, tmp_path / "packed", 60_000)
    return tmp_path / "packed"


@pytest.fixture
def place(s3, packed, monkeypatch, tmp_path) -> str:
    """Where the packed images are, seen from a machine that has none of them."""
    monkeypatch.setenv("VOLO_CACHE_DIR", machine(tmp_path, "reader")["VOLO_CACHE_DIR"])
    monkeypatch.setattr(shards, "_keeping", set())
    place = f"{s3.new_bucket()}/photos"
    for path in packed.iterdir():
        Bucket(place).write(path.name, path)
    return place


def pixels(source) -> np.ndarray:
    return np.stack([*source.decode(np.arange(len(source.labels)))])


@pytest.fixture
def nothing_kept(monkeypatch):
    monkeypatch.setenv(shards.LIMIT, "0")


def kept(place: str) -> list[str]:
    return sorted(path.name for path in shards.local_index(place).glob("*.tar"))


def until_kept(source: PackedFolder) -> None:
    source.file_of(0)
    for thread in threading.enumerate():
        if thread.name == "shards":
            thread.join()


def test_images_read_in_parts_are_those_of_the_folder(folder, place, nothing_kept):
    for split in ("train", "test"):
        there, here = PackedFolder(place, split, 32), ImageFolder(folder, split, 32)
        assert np.array_equal(pixels(there), pixels(here))
        assert there.contents().digest == here.contents().digest and np.array_equal(there.labels, here.labels)
    assert kept(place) == []


def test_a_node_keeps_each_shard_once_and_then_asks_no_server(folder, place, s3):
    source = PackedFolder(place, "train", 32)
    until_kept(source)
    assert len(kept(place)) == len(source._index.shards) > 2
    assert not source.file_of(0).address
    s3.proxy.seen.clear()
    assert np.array_equal(pixels(source), pixels(ImageFolder(folder, "train", 32)))
    assert not s3.proxy.seen


def test_a_node_keeps_as_many_shards_as_it_may_and_reads_the_others(folder, place, monkeypatch):
    monkeypatch.setenv(shards.LIMIT, "0.00015")
    source = PackedFolder(place, "train", 32)
    until_kept(source)
    assert 0 < len(kept(place)) < len(source._index.shards)
    assert sum(path.stat().st_size for path in shards.local_index(place).glob("*.tar")) <= 150_000
    assert np.array_equal(pixels(source), pixels(ImageFolder(folder, "train", 32)))


@pytest.mark.parametrize("fault", [DROP, *(pytest.param(one, marks=pytest.mark.slow) for one in (LOSE_ANSWER, 503))])
def test_a_server_that_fails_a_few_times_is_asked_again(folder, place, nothing_kept, s3, fault):
    source = PackedFolder(place, "train", 32)
    with s3.proxy.failing(first(3, fault, "GET", "shard")):
        assert np.array_equal(pixels(source), pixels(ImageFolder(folder, "train", 32)))


def test_a_server_that_stays_away_is_given_up(place, nothing_kept, s3, monkeypatch):
    monkeypatch.setattr(ranges, "PATIENCE_S", 0.5)
    part = PackedFolder(place, "train", 32).file_of(0)
    for fault in (DROP, 503, 403):
        with s3.proxy.failing(lambda asking, fault=fault: fault), pytest.raises(OSError, match="cannot be read"):
            part.read()


def spoiled(place: str, what: str) -> None:
    bucket = Bucket(place)
    shard = next(name for name in bucket.names() if name.endswith(".tar"))
    match what:
        case "no index":
            bucket.delete([FILE])
        case "no shard":
            bucket.delete([shard])
        case "a short shard":
            bucket.write(shard, bucket.read(shard)[0][:-512])
        case "half an index":
            bucket.write(FILE, bucket.read(FILE)[0][:1000])


REFUSALS = {
    "no index": "must hold packed images, got no index.arrow at",
    "no shard": "shards must be those that s3://.* describes, got 1 of",
    "a short shard": "shards must be those that s3://.* describes, got 1 of",
    "half an index": "an index of packed images must be intact",
}


@pytest.mark.parametrize("what", REFUSALS)
def test_what_is_damaged_there_is_refused_when_it_is_opened(place, what):
    spoiled(place, what)
    with pytest.raises(InputError, match=REFUSALS[what]):
        PackedFolder(place, "train", 32)


def test_other_bytes_in_a_shard_of_the_same_size_give_no_image(place, nothing_kept):
    bucket, source = Bucket(place), PackedFolder(place, "train", 32)
    part = source.file_of(0)
    name = Path(part.shard).name
    content = bytearray(bucket.read(name)[0])
    content[part.offset + 40] ^= 1
    bucket.write(name, bytes(content))
    with pytest.raises(OSError, match="has other bytes there than its index says"):
        part.read()


def test_a_new_version_there_replaces_what_a_node_kept(place, packed, folder, tmp_path):
    until_kept(PackedFolder(place, "train", 32))
    before = shards.local_index(place)
    (folder / "train" / "cat" / "0000.png").unlink()
    pack(folder, tmp_path / "again", 60_000)
    for path in (tmp_path / "again").iterdir():
        Bucket(place).write(path.name, path)
    source = PackedFolder(place, "train", 32)
    assert len(source.labels) == 79 and not before.exists()
    assert np.array_equal(pixels(source), pixels(ImageFolder(folder, "train", 32)))


@pytest.mark.parametrize("limit", ["-1", "all", "nan", "inf"])
def test_a_limit_that_is_no_number_is_refused(place, monkeypatch, limit):
    monkeypatch.setenv(shards.LIMIT, limit)
    with pytest.raises(InputError, match="VOLO_SHARD_CACHE_GB must be a number of gigabytes, 0 or more"):
        PackedFolder(place, "train", 32)


def test_an_index_that_names_shards_elsewhere_is_refused(packed, tmp_path):
    (tmp_path / "other").mkdir()
    found = read_index(packed)
    elsewhere = [Shard(f"../packed/{shard.file}", shard.num_bytes) for shard in found.shards]
    write_index(tmp_path / "other" / FILE, found.table, found.splits, elsewhere, found.is_split_here)
    with pytest.raises(InputError, match="it names shards elsewhere"):
        read_index(tmp_path / "other")


CUT = dict(augment=dict(crop_area=(0.3, 1.0)), run=dict(num_readers=2), optim=dict(epochs=2))


@pytest.mark.slow
def test_a_run_on_packed_images_there_reaches_the_weights_of_one_on_the_folder(
    folder, place, nothing_kept, tmp_path, s3, capsys
):
    here = train(small_run(tmp_path, folder, **CUT))
    settings = small_run(tmp_path / "there", Path("placeholder"), **CUT)
    moved = settings.model_copy(update={"data": settings.data.model_copy(update={"data_dir": place})})
    asked = tmp_path / "there.yaml"
    asked.write_text(moved.to_yaml())
    with s3.proxy.failing(partial(first(5, DROP, "GET", "shard"))):
        assert exit_code(job.main, ["--config", str(asked)]) == 0
    assert same(weights(here), weights(moved.run_dir)) and losses(here) == losses(moved.run_dir)
    _, description = checkpoint.load_model(checkpoint.find(moved.run_dir))
    assert description.settings.data.data_dir == place
    view = open_view(description, "test")
    assert len(view.labels) == 20
