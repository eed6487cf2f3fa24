import json
import multiprocessing
import os
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.conftest import draw_folder
from volo.data.cache import cache_dir, cached
from volo.data.imagefolder import ImageFolder
from volo.errors import InputError


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("VOLO_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def source(tmp_path) -> ImageFolder:
    return ImageFolder(draw_folder(tmp_path / "images", {"train": {"a": 30, "b": 30}}), "train", 16)


def entry(cache: Path) -> Path:
    return next(path for path in cache.iterdir() if path.is_dir())


class Counting(ImageFolder):
    """Notes each decoding in a file, across processes."""

    def decode(self, start, stop):
        with open(self.log, "a") as file:
            file.write(f"{start}\n")
        return super().decode(start, stop)


def open_counted(folder: Path, log: Path) -> float:
    source = Counting(folder, "train", 16)
    source.log = log
    return float(cached(source).images.mean())


def test_four_processes_at_once_decode_once(tmp_path, cache, source):
    arguments = [(tmp_path / "images", tmp_path / "log")] * 4
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        means = pool.starmap(open_counted, arguments)
    assert len(set(means)) == 1
    assert (tmp_path / "log").read_text() == "0\n"


def test_a_failed_decoding_leaves_nothing_behind(tmp_path, cache, source):
    (tmp_path / "images" / "train" / "b" / "0005.png").write_bytes(b"broken")
    broken = ImageFolder(tmp_path / "images", "train", 16)
    with pytest.raises(InputError, match=r"0005\.png"):
        cached(broken)
    assert [path.suffix for path in cache.iterdir()] == [".lock"]


@pytest.mark.parametrize("harm", ["truncate", "no meta"])
def test_a_damaged_entry_is_built_again(cache, source, harm):
    before = np.array(cached(source).images)
    if harm == "truncate":
        file = entry(cache) / "images.npy"
        file.write_bytes(file.read_bytes()[:1000])
    else:
        (entry(cache) / "meta.json").unlink()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert np.array_equal(cached(source).images, before)


def test_the_map_cannot_be_written_into(cache, source):
    with pytest.raises(ValueError, match="read-only"):
        cached(source).images[:] = 0


def test_what_a_killed_decoding_has_left_is_removed(cache, source):
    cached(source)
    (entry(cache) / "meta.json").unlink()
    left = cache / f".{entry(cache).name}-killed"
    left.mkdir()
    cached(source)
    assert not left.exists()


def test_large_images_are_decoded_in_smaller_parts(tmp_path, cache, monkeypatch):
    draw_folder(tmp_path / "images", {"train": {"a": 3, "b": 3}})
    monkeypatch.setattr("volo.data.cache.CHUNK_BYTES", 2 * 16 * 16 * 3)
    open_counted(tmp_path / "images", tmp_path / "log")
    assert (tmp_path / "log").read_text().split() == ["0", "2", "4"]


def test_settings_that_change_the_images_make_an_entry_of_their_own(cache, source, tmp_path):
    cached(source)
    cached(ImageFolder(tmp_path / "images", "train", 8))
    cached(ImageFolder(tmp_path / "images", "train", 16, resize="squash"))
    shapes = [json.loads(file.read_text())["shape"] for file in cache.glob("*/meta.json")]
    assert sorted(shapes) == [[60, 8, 8, 3], [60, 16, 16, 3], [60, 16, 16, 3]]


def test_a_folder_that_cannot_be_written_is_named(tmp_path, monkeypatch, source):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("VOLO_CACHE_DIR", str(tmp_path / "file"))
    with pytest.raises(InputError, match="the image cache must be writable"):
        cached(source)


def test_the_cache_lies_where_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.delenv("VOLO_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_dir() == tmp_path / "volo"


def test_an_image_that_is_replaced_by_another_of_the_same_size_is_decoded_again(cache, tmp_path):
    """As many bytes, so that the time of the change alone tells them apart."""
    folder = draw_folder(tmp_path / "images", {"train": {"a": 1, "b": 1}})
    file = folder / "train" / "a" / "0000.png"
    Image.new("RGB", (16, 16), "red").save(file, "BMP")
    before = cached(ImageFolder(folder, "train", 16)).images[0].copy()
    size, changed = file.stat().st_size, file.stat().st_mtime_ns + 1_000_000_000
    Image.new("RGB", (16, 16), "blue").save(file, "BMP")
    os.utime(file, ns=(changed, changed))
    assert file.stat().st_size == size
    after = cached(ImageFolder(folder, "train", 16)).images[0]
    assert (before[0, 0].tolist(), after[0, 0].tolist()) == ([255, 0, 0], [0, 0, 255])
