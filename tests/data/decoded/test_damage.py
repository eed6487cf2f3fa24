"""A damaged cache: noticed before a pixel of it is used, said in one line, and decoded again."""

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.data.decoded.entries import ROW_BYTES, counting, decoded, entry, expected, num_stored
from tests.unprivileged import read_only, unprivileged
from volo.data.decoded import store as stores
from volo.data.decoded.cache import cached
from volo.data.decoded.store import RECORD, Store
from volo.doctor.data import check_cache
from volo.errors import InputError
from volo.settings.config import build_settings

EVERYTHING = np.arange(60)
Harm = Callable[[Path], None]


def flipped(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def of_another_type(path: Path) -> None:
    path.write_bytes(np.frombuffer(path.read_bytes(), np.uint8).astype(np.float32).tobytes())


def exchanged(path: Path) -> None:
    rows = np.frombuffer(path.read_bytes(), np.uint8).reshape(60, -1)
    path.write_bytes(rows[::-1].tobytes())


def as_folder(path: Path) -> None:
    path.unlink()
    (path / "inner").mkdir(parents=True)


def as_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def moved_records(path: Path) -> None:
    """The records of other rows, each with a valid key."""
    records = np.frombuffer(path.read_bytes(), RECORD)
    path.write_bytes(np.roll(records, 1).tobytes())


def of_another_shape(path: Path) -> None:
    """Valid, and with as many bytes."""
    keys = np.frombuffer(path.read_bytes(), RECORD)["key"]
    Store(path.parent, (8, 32, 3)).add([(keys, np.ones((60, 8, 32, 3), np.uint8))])


def as_file(path: Path) -> None:
    shutil.rmtree(path)
    path.write_text("in the way")


PIXELS: dict[str, Harm] = {
    "one bit flipped": lambda path: flipped(path, 30 * ROW_BYTES + 7),
    "all zeros": lambda path: path.write_bytes(bytes(60 * ROW_BYTES)),
    "the second half zeros": lambda path: path.write_bytes(path.read_bytes()[: 30 * ROW_BYTES] + bytes(30 * ROW_BYTES)),
    "of another type": of_another_type,
    "rows exchanged": exchanged,
    "cut short": lambda path: os.truncate(path, 50 * ROW_BYTES + 1),
    "empty": lambda path: os.truncate(path, 0),
    "gone": Path.unlink,
    "another file": lambda path: path.write_text("<html>please log in</html>" * 5000),
    "a folder": as_folder,
    "a pipe": as_pipe,
}
INDEX: dict[str, Harm] = {
    "one bit of a key flipped": lambda path: flipped(path, 30 * RECORD.itemsize + 3),
    "one bit of a checksum flipped": lambda path: flipped(path, 30 * RECORD.itemsize + 17),
    "cut within a record": lambda path: os.truncate(path, 50 * RECORD.itemsize + 3),
    "empty JSON": lambda path: path.write_text("{}"),
    "other JSON": lambda path: path.write_text('{"dtype": "float32", "shape": [60, "x"]}' * 50),
    "no JSON": lambda path: path.write_bytes(b"\xff\xfe{" * 800),
    "records of other rows": moved_records,
    "of another shape": of_another_shape,
    "a folder": as_folder,
    "a pipe": as_pipe,
}
HARMS = [("images.bin", *harm) for harm in PIXELS.items()] + [("index.bin", *harm) for harm in INDEX.items()]
HARMS += [("", "a file", as_file)]


@pytest.mark.parametrize(("name", "kind", "harm"), HARMS, ids=lambda part: part if isinstance(part, str) else "")
def test_whatever_is_wrong_with_a_cache_is_said_in_one_line_and_decoded_again(images, cache, name, kind, harm, caplog):
    cached(counting(images))
    harm(entry(cache) / name)
    found = cached(counting(images))
    assert np.array_equal(found.pixels(EVERYTHING), expected(images))
    [said] = caplog.messages
    assert said.startswith("the image cache is damaged (")
    assert said.endswith("again")
    assert "\n" not in said
    decoded(images)
    cached(counting(images))
    assert decoded(images) == []


def test_one_damaged_image_is_decoded_alone(images, cache, caplog):
    cached(counting(images))
    decoded(images)
    flipped(entry(cache) / "images.bin", 30 * ROW_BYTES)
    found = cached(counting(images))
    assert decoded(images) == [30]
    assert np.array_equal(found.pixels(EVERYTHING), expected(images))
    assert f"(1 of 60 images in {entry(cache)} are not what was decoded)" in caplog.text


@pytest.mark.parametrize(
    ("name", "harm"),
    [
        ("index.bin", INDEX["empty JSON"]),
        ("index.bin", INDEX["one bit of a key flipped"]),
        ("index.bin", Path.unlink),
        ("images.bin", Path.unlink),
    ],
)
def test_a_process_that_has_opened_the_cache_keeps_its_images_while_another_repairs_it(images, cache, name, harm):
    """The other one decodes in another order, so that every image is in another row."""
    some = np.arange(60)[::-1]
    before = cached(counting(images), some)
    harm(entry(cache) / name)
    after = cached(counting(images))
    assert not np.array_equal(before.rows, after.rows)
    for found in (before, after):
        assert np.array_equal(found.pixels(EVERYTHING), expected(images))


def test_of_a_large_cache_a_sample_is_checked_at_each_start_and_everything_by_doctor(
    images, cache, monkeypatch, caplog
):
    monkeypatch.setattr(stores, "SAMPLE_BYTES", 7 * ROW_BYTES)
    cached(counting(images))
    data = build_settings(dict(data=dict(dataset="imagefolder", data_dir=str(images), image_size=16))).resolved().data
    assert "damaged" not in check_cache(data).found
    rows = Store(entry(cache), (16, 16, 3)).sample(EVERYTHING).tolist()
    assert (len(rows), rows[0], rows[-1]) == (7, 0, 59)
    flipped(entry(cache) / "images.bin", 1 * ROW_BYTES)
    cached(counting(images))
    assert caplog.messages == []
    found = check_cache(data)
    assert (found.status, found.remedy.partition(";")[0]) == ("warning", "the next training decodes them again")
    assert f"damaged: 1 of 60 images in {entry(cache)} are not what was decoded" in found.found


def opened_and_counted(images: Path) -> float:
    return float(cached(counting(images)).images.mean())


def test_a_complete_cache_that_can_only_be_read_is_used(images, cache):
    mean = opened_and_counted(images)
    for lock in cache.glob("*.lock"):
        lock.unlink()
    decoded(images)
    with read_only(cache):
        before = sorted(cache.rglob("*"))
        assert unprivileged(opened_and_counted, images) == mean
        assert (decoded(images), sorted(cache.rglob("*"))) == ([], before)


@pytest.mark.parametrize("harm", ["incomplete", "damaged"])
def test_a_cache_that_lacks_images_and_can_only_be_read_is_refused(images, cache, harm):
    cached(counting(images), EVERYTHING[:50] if harm == "incomplete" else EVERYTHING)
    if harm == "damaged":
        flipped(entry(cache) / "images.bin", 0)
    with (
        read_only(cache),
        pytest.raises(InputError, match=r"the image cache must be writable, got .*cache \(Permission"),
    ):
        unprivileged(opened_and_counted, images)


def test_a_home_that_can_only_be_read_serves_what_it_has_and_the_rest_is_kept_elsewhere(images, tmp_path, monkeypatch):
    monkeypatch.delenv("VOLO_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    mean = opened_and_counted(images)
    decoded(images)
    with read_only(tmp_path / "home"):
        assert unprivileged(opened_and_counted, images) == mean
        assert decoded(images) == []
        os.utime(images / "train" / "a" / "0000.png", ns=(1, 1))
        assert unprivileged(opened_and_counted, images) == mean
        assert sorted(decoded(images)) == list(range(60))
    assert entry(tmp_path / f"volo-cache-{os.geteuid()}")


def test_a_cache_of_an_earlier_version_is_decoded_again_which_is_said_once(images, cache, caplog):
    """Its pixels have no checksums. A process that still uses them keeps them."""
    source = counting(images)
    key = hashlib.sha256(source.fingerprint().encode()).hexdigest()[:16]
    older = cache / f"{source.name}-{key}"
    older.mkdir(parents=True)
    (older / "images.bin").write_bytes(bytes(60 * ROW_BYTES))
    (older / "keys.bin").write_bytes(source.keys().tobytes())
    mapped = np.memmap(older / "images.bin", np.uint8, "r")
    with caplog.at_level("INFO", "volo"):
        for _ in range(2):
            found = cached(counting(images))
    assert np.array_equal(found.pixels(EVERYTHING), expected(images))
    assert caplog.messages == ["the image cache of an earlier version has no checksums; decoding its images again"]
    assert (older.exists(), int(mapped.sum())) == (False, 0)
    assert num_stored(cache) == 60
