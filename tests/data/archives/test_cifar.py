"""CIFAR-10 and CIFAR-100 from small archives of the published layout."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.data.archives.served import (
    ARCHIVES,
    CLASSES,
    COARSE_CLASSES,
    cifar10_files,
    cifar100_files,
    packed,
    published_pickle,
    rows,
)
from volo.data.archives.cifar import CIFAR10, CIFAR10_LAYOUT, CIFAR100, CIFAR100_LAYOUT, Cifar
from volo.data.archives.fetch import Archive
from volo.data.archives.pickles import load_plain
from volo.data.decoded.cache import cached
from volo.errors import InputError

LAYOUTS = {"cifar100": CIFAR100_LAYOUT, "cifar10": CIFAR10_LAYOUT}


def placed(data_dir: Path, files: dict[str, bytes], published: Archive = CIFAR100) -> Archive:
    """Puts an archive of these files into the data directory, as one does by hand."""
    content, archive = packed(files, published)
    data_dir.mkdir(exist_ok=True)
    (data_dir / archive.file).write_bytes(content)
    return archive


def opened(name: str, archive: Archive, data_dir: Path, split: str = "train", image_size: int = 32) -> Cifar:
    return Cifar(name, archive, LAYOUTS[name], data_dir, split, image_size)


def test_cifar100_has_fine_labels_and_keeps_the_coarse_ones(tmp_path):
    archive = placed(tmp_path / "data", cifar100_files())
    images = cached(opened("cifar100", archive, tmp_path / "data"))
    assert images.class_names == tuple(f"fine {number}" for number in range(CLASSES))
    assert images.labels.tolist() == [(7 * index) % CLASSES for index in range(120)]
    assert images.coarse.class_names == tuple(f"coarse {number}" for number in range(COARSE_CLASSES))
    assert images.coarse.of_class.dtype == np.int64
    assert images.coarse.of_class.tolist() == [number % COARSE_CLASSES for number in range(CLASSES)]


def test_cifar10_joins_its_batches_in_order(tmp_path):
    archive = placed(tmp_path / "data", cifar10_files(), CIFAR10)
    train, test = (cached(opened("cifar10", archive, tmp_path / "data", split)) for split in ("train", "test"))
    assert (len(train), len(test), train.coarse) == (50, 10, None)
    assert train.labels.tolist() == 5 * list(range(10))
    for number in range(5):
        assert np.array_equal(train.images[10 * number : 10 * number + 10], as_images(rows(10, number)))


def as_images(flat: np.ndarray) -> np.ndarray:
    """Pixel by pixel from the published order: 1024 red values, row after row, then green, then blue."""
    return np.stack([np.stack([row[:1024], row[1024:2048], row[2048:]], axis=1).reshape(32, 32, 3) for row in flat])


def test_pixels_match_the_published_rows(tmp_path):
    archive = placed(tmp_path / "data", cifar100_files())
    images = cached(opened("cifar100", archive, tmp_path / "data", "test")).images
    assert np.array_equal(images, as_images(rows(20, 1)))


def test_another_image_size_is_resized_to(tmp_path):
    archive = placed(tmp_path / "data", cifar100_files())
    images = cached(opened("cifar100", archive, tmp_path / "data", "test", image_size=48)).images
    expected = Image.fromarray(as_images(rows(20, 1))[3]).resize((48, 48), Image.Resampling.BICUBIC)
    assert np.array_equal(images[3], np.asarray(expected))


@pytest.mark.parametrize("name", LAYOUTS)
def test_images_are_read_as_by_torchvision(tmp_path, name, monkeypatch):
    import torchvision.datasets

    make_files, published = ARCHIVES[name]
    files = make_files()
    archive = placed(tmp_path, files, published)
    ours = {split: opened(name, archive, tmp_path, split) for split in ("train", "test")}
    peer = getattr(torchvision.datasets, name.upper())
    for table in ("train_list", "test_list"):
        monkeypatch.setattr(peer, table, [[file, archive.members[file]] for file, _ in getattr(peer, table)])
    monkeypatch.setattr(peer, "meta", peer.meta | {"md5": archive.members[peer.meta["filename"]]})
    for split, source in ours.items():
        theirs = peer(str(tmp_path), train=split == "train")
        assert np.array_equal(np.stack(list(source.decode(np.arange(len(source.labels))))), theirs.data)
        assert source.labels.tolist() == theirs.targets
        assert list(source.class_names) == theirs.classes


class Harmful:
    def __reduce__(self):
        return (print, ("this ran",))


@pytest.mark.parametrize("harmful", [Harmful(), {"data": [Harmful()]}, np.array([Harmful()])])
def test_a_pickle_that_names_a_function_runs_nothing(tmp_path, capsys, harmful):
    content = pickle.dumps(harmful)
    pickle.loads(content)
    assert "this ran" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"it calls builtins\.print"):
        load_plain(content)
    archive = placed(tmp_path, cifar100_files() | {"test": content})
    with pytest.raises(InputError, match=r"cifar-100-python/test must be a pickle of plain containers and arrays"):
        opened("cifar100", archive, tmp_path, "test")
    assert capsys.readouterr().out == ""


def test_nothing_is_unpickled_whose_checksum_does_not_match(tmp_path, monkeypatch):
    archive = placed(tmp_path, cifar100_files())
    opened("cifar100", archive, tmp_path)
    monkeypatch.setattr("volo.data.archives.cifar.load_plain", lambda content: pytest.fail("it was unpickled"))
    (tmp_path / archive.folder / "meta").write_bytes(pickle.dumps(Harmful()))
    with pytest.raises(InputError, match=r"meta must have md5"):
        opened("cifar100", archive, tmp_path)


@pytest.mark.parametrize("write", [published_pickle, lambda value: pickle.dumps(value, protocol=4)])
def test_arrays_and_containers_are_read(write):
    value = {"a": [1, 2.5, None, True], "b": ("x", {"y": "z"}), "c": np.arange(6, dtype=np.int16).reshape(2, 3)}
    found = load_plain(write(value))
    assert np.array_equal(found.pop("c"), value.pop("c"))
    assert found == value


@pytest.mark.parametrize("content", [b"", b"\x80", b"not a pickle", published_pickle({"a": 1})[:-3]])
def test_a_damaged_pickle_is_refused(content):
    with pytest.raises(ValueError, match="must be a pickle"):
        load_plain(content)


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (dict(data=rows(20, 1).reshape(20, 32, 96)), "images must be uint8 rows of 3072"),
        (dict(data=rows(20, 1).astype(float)), "images must be uint8 rows of 3072"),
        (dict(data=rows(19, 1)), "every image must have a label, got 19 images"),
        (dict(fine_labels=[10] * 20), "fine_labels must name one of 10 classes, got 10 to 10"),
        (dict(fine_labels=[-1] * 20), "fine_labels must name one of 10 classes"),
        (dict(fine_labels=["a"] * 20), "invalid literal"),
        (dict(coarse_labels=[0] * 10 + [1] * 10), "all of one coarse class"),
        (dict(fine_labels=[0] * 20, coarse_labels=[0] * 20), "every fine class must have images"),
        (None, "KeyError: 'data'"),
    ],
)
def test_an_archive_of_another_layout_is_refused(tmp_path, change, rule):
    files = cifar100_files()
    batch = load_plain(files["test"])
    changed = batch | change if change else {"labels": []}
    archive = placed(tmp_path, files | {"test": published_pickle(changed)})
    with pytest.raises(InputError, match=r"must have the layout of cifar-100-python as published") as refused:
        opened("cifar100", archive, tmp_path, "test")
    assert rule in str(refused.value)


def test_other_files_are_a_separate_cache_entry(tmp_path):
    one = placed(tmp_path / "one", cifar100_files())
    two = placed(tmp_path / "two", cifar100_files(num_train=60))
    assert len(cached(opened("cifar100", one, tmp_path / "one"))) == 120
    assert len(cached(opened("cifar100", two, tmp_path / "two"))) == 60


@pytest.mark.parametrize("image_size", [32, 48])
def test_the_gray_of_images_is_their_luma(tmp_path, image_size):
    archive = placed(tmp_path / "data", cifar100_files())
    how = (archive, LAYOUTS["cifar100"], tmp_path / "data", "test", image_size)
    images = cached(Cifar("cifar100", *how, in_chans=1)).images
    luma = Image.fromarray(as_images(rows(20, 1))[3]).convert("L").resize((image_size,) * 2, Image.Resampling.BICUBIC)
    assert np.array_equal(images[3, ..., 0], np.asarray(luma))
    assert cached(Cifar("cifar100", *how)).images.shape[1:] == (image_size, image_size, 3)
