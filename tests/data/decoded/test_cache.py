"""Decoded images: each once, only those requested, and none lost when decoding is interrupted."""

import multiprocessing
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.conftest import draw_folder
from tests.data.decoded.entries import ROW_BYTES, Killed, counting, decoded, entry, expected, num_stored
from volo.data.decoded.cache import cache_dir, cached, room
from volo.data.decoded.store import KEY, RECORD, Store
from volo.data.folders.damage import SHOWN, DamagedImages
from volo.data.folders.imagefolder import ImageFolder
from volo.errors import InputError


def open_counted(images: Path) -> float:
    return float(cached(counting(images)).images.mean())


def open_and_die(images: Path) -> None:
    cached(counting(images, Killed, fatal=30))


def test_four_processes_at_once_decode_once_and_again_once_if_that_is_damaged(images, cache):
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        means = pool.map(open_counted, [images] * 4)
        assert len(set(means)) == 1
        assert decoded(images) == list(range(60))
        (entry(cache) / "images.bin").write_bytes(bytes(60 * ROW_BYTES))
        assert pool.map(open_counted, [images] * 4) == means
        assert decoded(images) == list(range(60))


def test_only_requested_images_are_decoded_and_all_keep_their_numbers(images, cache):
    some = np.array([3, 40, 41])
    found = cached(counting(images), some)
    assert decoded(images) == [3, 40, 41]
    assert len(found) == 60
    assert found.decoded.tolist() == [3, 40, 41]
    assert np.array_equal(found.pixels(some), expected(images)[some])
    assert num_stored(cache) == 3
    whole = cached(counting(images))
    assert sorted(decoded(images)) == sorted({*range(60)} - {3, 40, 41})
    assert np.array_equal(whole.pixels(np.arange(60)), expected(images))


def test_files_of_one_size_and_time_that_exchange_their_names_are_decoded_again(images, cache):
    """Unpacked from one archive, all files can have the same time."""
    one, other = (images / "train" / "a" / f"000{number}.bmp" for number in (0, 1))
    for file, color in ((one, "black"), (other, "white")):
        Image.new("RGB", (8, 8), color).save(file)
        os.utime(file, ns=(1, 1))
    first = cached(counting(images))
    numbers = np.array([number for number, file in enumerate(first.source.files) if file.name.endswith(".bmp")])
    before = first.pixels(numbers)
    one.rename(images / "aside"), other.rename(one), (images / "aside").rename(other)
    assert np.array_equal(cached(counting(images)).pixels(numbers), before[::-1])


def test_what_is_added_removed_or_changed_is_decoded_alone(images, cache):
    cached(counting(images))
    decoded(images)
    (images / "train" / "a" / "0000.png").unlink()
    os.utime(images / "train" / "b" / "0000.png", ns=(1, 1))
    draw_folder(images, {"train/a": {"more": 1}})
    found = cached(counting(images))
    assert len(found) == 60
    assert decoded(images) == [29, 30]
    assert np.array_equal(found.pixels(np.arange(60)), expected(images))


def test_damaged_images_are_named_all_at_once_and_the_others_stay_decoded(images, cache):
    whole = (images / "train" / "b" / "0005.png").read_bytes()
    for name, content in (("a/0007.png", b"<html>"), ("b/0005.png", whole[:-400]), ("b/0029.png", b"")):
        (images / "train" / name).write_bytes(content)
    with pytest.raises(DamagedImages, match="got 3 of 60 that are not") as refused:
        cached(counting(images))
    for name in ("a/0007.png", "b/0005.png", "b/0029.png"):
        assert f"{images}/train/{name} (" in str(refused.value)
    assert decoded(images) == list(range(60))
    (images / "train" / "a" / "0007.png").write_bytes(whole)
    (images / "train" / "b" / "0029.png").unlink()
    with pytest.raises(DamagedImages, match=r"got 1 of 59 that is not:\n  .*0005\.png .*; fix or remove it$"):
        cached(counting(images))
    assert decoded(images) == [7, 35]
    left = cached(counting(images), skip_damaged=True)
    assert [damage.number for damage in left.damaged] == [35]
    assert sorted({*range(59)} - {*left.decoded.tolist()}) == [35]


def test_an_error_shows_some_of_many_damaged_images_and_lists_all(images, cache):
    broken = sorted(images.rglob("*.png"))[: SHOWN + 5]
    for file in broken:
        file.write_bytes(b"broken")
    with pytest.raises(DamagedImages, match=r"and 5 more\nall are listed in ") as refused:
        cached(ImageFolder(images, "train", 16))
    assert str(refused.value).count(".png (") == SHOWN
    listed = Path(str(refused.value).rpartition(" listed in ")[2].partition(";")[0]).read_text()
    assert [line.split(" (")[0] for line in listed.splitlines()] == [str(file) for file in broken]


def test_an_interrupted_or_killed_decoding_resumes_where_it_was(images, cache, monkeypatch):
    monkeypatch.setattr("volo.data.decoded.cache.CHUNK", 10)
    with pytest.raises(KeyboardInterrupt):
        cached(counting(images, fatal=20))
    assert decoded(images) == list(range(20))
    dying = multiprocessing.get_context("fork").Process(target=open_and_die, args=(images,))
    dying.start()
    dying.join()
    assert (dying.exitcode, decoded(images)) == (9, list(range(20, 30)))
    found = cached(counting(images))
    assert decoded(images)[-1] == 59
    assert np.array_equal(found.pixels(np.arange(60)), expected(images))


@pytest.mark.parametrize(("harm", "num_decoded"), [("rows without records", 10), ("bytes after the last row", 0)])
def test_what_a_killed_decoding_may_leave_is_no_damage(images, cache, harm, num_decoded, caplog):
    cached(counting(images))
    decoded(images)
    if harm == "rows without records":
        os.truncate(entry(cache) / "index.bin", 50 * RECORD.itemsize)
    else:
        with open(entry(cache) / "images.bin", "ab") as file:
            file.write(b"x" * 5000)
    found = cached(counting(images))
    assert len(decoded(images)) == num_decoded
    assert np.array_equal(found.pixels(np.arange(60)), expected(images))
    assert caplog.messages == []


def test_the_map_cannot_be_written_into(images, cache):
    with pytest.raises(ValueError, match="read-only"):
        cached(ImageFolder(images, "train", 16)).images[:] = 0


def test_large_images_are_stored_in_smaller_parts(images, cache, monkeypatch):
    monkeypatch.setattr("volo.data.decoded.cache.CHUNK_BYTES", 25 * 16 * 16 * 3)
    sizes, add = [], Store.add
    monkeypatch.setattr(Store, "add", lambda self, parts: add(self, noted(parts)))

    def noted(parts):
        for keys, images in parts:
            sizes.append((len(keys), len(images)))
            yield keys, images

    cached(ImageFolder(images, "train", 16))
    assert sizes == [(25, 25), (25, 25), (10, 10)]


def test_settings_that_change_the_images_make_a_separate_entry(images, cache):
    for size, resize in ((16, "crop"), (8, "crop"), (16, "squash")):
        cached(ImageFolder(images, "train", size, resize))
    sizes = [file.stat().st_size // (60 * 3) for file in cache.glob("*/images.bin")]
    assert sorted(sizes) == [8 * 8, 16 * 16, 16 * 16]


def test_rows_are_found_by_keys_of_any_bytes(tmp_path):
    """Also those with zeros in them or at their end, by which NumPy ends text."""
    rng = np.random.default_rng(0)
    some_bytes = np.unique(rng.integers(0, 2, (600, 16), dtype=np.uint8), axis=0)[:500]
    keys = rng.permutation(np.frombuffer(some_bytes.tobytes(), KEY))
    rows = rng.integers(0, 256, (500, 2, 2, 3), dtype=np.uint8)
    Store(tmp_path, (2, 2, 3)).add([(keys[:300], rows[:300]), (keys[300:], rows[300:])])
    store = Store(tmp_path, (2, 2, 3))
    order = rng.permutation(500)
    assert np.array_equal(store.images()[store.rows(keys[order])], rows[order])
    assert store.rows(np.frombuffer(b"another key, of 16 bytes"[:16], KEY)).tolist() == [-1]


def test_images_that_do_not_fit_are_refused_before_any_is_decoded(images, cache):
    large = ImageFolder(images, "train", 10**6)
    needed = room([(large, np.arange(60))])
    assert (needed.num_images, needed.needed) == (60, 60 * 3 * 10**12)
    with pytest.raises(InputError, match=r"cache must have room, got .* free at .*cache, .*TiB needed for 60 images"):
        cached(large)


def test_a_folder_that_cannot_be_written_is_named(tmp_path, monkeypatch, images):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("VOLO_CACHE_DIR", str(tmp_path / "file"))
    source = ImageFolder(images, "train", 16)
    for use in (lambda: cached(source), lambda: room([(source, np.arange(60))])):
        with pytest.raises(InputError, match=r"the image cache must be writable, got .*file \(Not a directory\)"):
            use()


def test_the_cache_is_where_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.delenv("VOLO_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_dir() == tmp_path / "volo"


def test_an_image_that_is_replaced_by_another_of_the_same_size_is_decoded_again(cache, tmp_path):
    """As many bytes, so that the time of the change alone tells them apart."""
    folder = draw_folder(tmp_path / "images", {"train": {"a": 1, "b": 1}})
    file = folder / "train" / "a" / "0000.png"
    Image.new("RGB", (16, 16), "red").save(file, "BMP")
    before = cached(ImageFolder(folder, "train", 16)).pixels(np.array([0]))[0].copy()
    size, changed = file.stat().st_size, file.stat().st_mtime_ns + 1_000_000_000
    Image.new("RGB", (16, 16), "blue").save(file, "BMP")
    os.utime(file, ns=(changed, changed))
    assert file.stat().st_size == size
    after = cached(ImageFolder(folder, "train", 16)).pixels(np.array([0]))[0]
    assert (before[0, 0].tolist(), after[0, 0].tolist()) == ([255, 0, 0], [0, 0, 255])
