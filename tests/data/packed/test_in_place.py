"""An image folder with an index of its own files is the folder, opened without listing it, or it is refused."""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.conftest import draw_folder
from tests.training.runs import losses, same, small_run, train, weights
from volo.cli import pack as job
from volo.cli.outcome import exit_code
from volo.data.datasets import open_train
from volo.data.folders import imagefolder
from volo.data.folders.image import Unreadable
from volo.data.folders.imagefolder import ImageFolder
from volo.data.folders.layout import NoTestSplit
from volo.data.folders.sizing import chosen_size
from volo.data.opening import open_folder
from volo.data.packed import FILE, IN_PLACE
from volo.data.packed.in_place import IndexedFolder
from volo.data.packed.packing import pack
from volo.errors import InputError
from volo.settings.config import build_settings

COUNTS = {"cat": 20, "dog": 9}


def splits(root: Path) -> None:
    draw_folder(root, {"train": COUNTS, "val": {"cat": 4, "dog": 3}, "test": {"dog": 5}, "spare": {"x": 2}})
    (root / "train" / "cat" / "deep" / "er").mkdir(parents=True)
    Image.effect_noise((61, 35), 40).save(root / "train" / "cat" / "deep" / "er" / "gräu 1.JPG")
    (root / "train" / "cat" / "notes.txt").write_text("none")
    (root / "train" / "dog" / "link.png").symlink_to(root / "test" / "dog" / "0000.png")


def classes_alone(root: Path) -> None:
    draw_folder(root.parent, {root.name: {"cat": 60, "dog": 60}})


def composed_otherwise(root: Path) -> None:
    """Accents as a Mac writes them."""
    draw_folder(root, {"train": {"cafe\u0301": 6, "dog": 6}})


def tabled(root: Path) -> None:
    draw_folder(root, {"files": COUNTS})
    rows = [(f"files/{name}/{number:04}.png", name) for name, count in COUNTS.items() for number in range(count)]
    parts = ("train", "val", "test", "train")
    lines = [f"{file},{name},{parts[number % 4]}" for number, (file, name) in enumerate(rows)]
    (root / "labels.csv").write_text("\n".join(["file,class,split", *lines]))


LAYOUTS = (splits, classes_alone, composed_otherwise, tabled)


@pytest.fixture
def photos(tmp_path) -> Path:
    splits(tmp_path / "photos")
    return tmp_path / "photos"


def index(root: Path) -> Path:
    assert exit_code(job.main, ["--data-dir", str(root), "--in-place"]) == 0
    return root


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_it_is_the_folder_image_by_image(tmp_path, layout, split):
    root = tmp_path / "photos"
    layout(root)
    index(root)
    if layout is composed_otherwise and split == "test":
        with pytest.raises(NoTestSplit, match="indexed images must have a test split, got train"):
            open_folder(root, split, 24)
        return
    folder, other = ImageFolder(root, split, 24), open_folder(root, split, 24)
    assert isinstance(other, IndexedFolder)
    everything = np.arange(len(folder.labels))
    for name in ("class_names", "notes", "place", "num_listed", "passed_over", "is_split_here"):
        assert getattr(other, name) == getattr(folder, name), name
    assert (other.held_out is None) == (folder.held_out is None)
    if folder.held_out is not None:
        assert np.array_equal(other.held_out, folder.held_out)
    assert np.array_equal(other.labels, folder.labels) and np.array_equal(other.sizes(), folder.sizes())
    assert other.contents().digest == folder.contents().digest and other.contents().text == folder.contents().text
    assert other.fingerprint() == folder.fingerprint() and np.array_equal(other.keys(), folder.keys())
    for number in everything.tolist():
        assert other.name_of(number) == other.file_of(number) == folder.file_of(number)
    for one, two in zip(folder.decode(everything), other.decode(everything), strict=True):
        assert np.array_equal(one, two)


def test_opening_it_lists_nothing(photos, monkeypatch):
    index(photos)
    monkeypatch.setattr(imagefolder, "find_images", None)
    monkeypatch.setattr(imagefolder, "find_folders", None)
    data = build_settings({"data": dict(dataset="imagefolder", data_dir=str(photos))}).resolved().data
    images, split = open_train(data, is_new=True)
    assert (len(images), len(split.train), len(split.val)) == (38, 31, 7)
    assert chosen_size(str(photos)) == data.image_size


def added(root: Path) -> None:
    shutil.copy(root / "train" / "cat" / "0000.png", root / "train" / "cat" / "new.png")


def removed(root: Path) -> None:
    (root / "val" / "dog" / "0000.png").unlink()


def renamed(root: Path) -> None:
    (root / "test" / "dog" / "0000.png").rename(root / "test" / "dog" / "0009.png")


def moved_to_another_class(root: Path) -> None:
    (root / "train" / "dog" / "0000.png").rename(root / "train" / "cat" / "0099.png")


def a_class_more(root: Path) -> None:
    shutil.copytree(root / "train" / "dog", root / "train" / "owl")


def an_image_below(root: Path) -> None:
    shutil.copy(root / "train" / "cat" / "0000.png", root / "train" / "cat" / "deep")


def another_split(root: Path) -> None:
    (root / "val").rename(root / "valid")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (added, "got 1 folder in {root} whose entries have changed: train/cat;"),
        (removed, "got 1 folder in {root} whose entries have changed: val/dog;"),
        (renamed, "changed: test/dog;"),
        (moved_to_another_class, "2 folders in {root} whose entries have changed: train/cat, train/dog;"),
        (a_class_more, "changed: train;"),
        (an_image_below, "changed: train/cat/deep;"),
        (another_split, "changed: {root}, val"),
    ],
)
def test_a_folder_that_has_changed_is_refused_until_it_is_indexed_again(photos, change, named):
    index(photos)
    change(photos)
    with pytest.raises(InputError) as refused:
        open_folder(photos, "train", 24)
    assert "must be as it was when it was indexed" in str(refused.value)
    assert named.format(root=photos) in str(refused.value)
    assert str(refused.value).endswith(f"; run volo pack --in-place again, or remove {IN_PLACE} from it")
    index(photos)
    assert open_folder(photos, "train", 24).contents().digest == ImageFolder(photos, "train", 24).contents().digest


def test_a_table_that_has_changed_is_refused(tmp_path):
    tabled(tmp_path / "photos")
    index(tmp_path / "photos")
    table = tmp_path / "photos" / "labels.csv"
    table.write_text(table.read_text().replace("dog,train", "dog,val"))
    with pytest.raises(InputError, match=r"whose entries have changed: labels\.csv"):
        open_folder(tmp_path / "photos", "train", 24)


def longer(file: Path) -> None:
    file.write_bytes(file.read_bytes() + b"\0")


def as_long(file: Path) -> None:
    file.write_bytes(bytes(file.stat().st_size))


@pytest.mark.parametrize("harm", [longer, as_long])
def test_a_file_that_has_changed_is_named_when_it_is_read(photos, harm):
    source = open_folder(index(photos), "train", 24)
    file = photos / "train" / "cat" / "0003.png"
    number = [source.name_of(number) for number in range(len(source.labels))].index(str(file))
    harm(file)
    with pytest.raises(Unreadable, match=r"cat/0003\.png \(it has changed since its folder was indexed: run volo pack"):
        source.file_of(number)
    data = build_settings({"data": dict(dataset="imagefolder", data_dir=str(photos))}).resolved().data
    with pytest.raises(InputError, match=r"cat/0003\.png"):
        open_train(data, is_new=True)


def test_a_copy_that_keeps_the_times_has_the_index_too_and_another_is_refused(photos, tmp_path):
    index(photos)
    subprocess.run(["cp", "-a", str(photos), str(tmp_path / "kept")], check=True)
    subprocess.run(["cp", "-r", str(photos), str(tmp_path / "other")], check=True)
    folder, other = ImageFolder(tmp_path / "kept", "train", 24), open_folder(tmp_path / "kept", "train", 24)
    assert (other.place, other.notes) == (folder.place, folder.notes)
    assert other.contents().digest == folder.contents().digest
    with pytest.raises(InputError, match="must be as it was when it was indexed"):
        open_folder(tmp_path / "other", "train", 24)


def test_a_run_goes_on_with_an_index_to_the_weights_of_one_without(tmp_path, folder):
    whole = train(small_run(tmp_path / "whole", folder))
    begun = small_run(tmp_path / "begun", folder, optim=dict(max_steps=5))
    train(begun)
    index(folder)
    run_dir = train(small_run(tmp_path / "begun", folder))
    assert same(weights(whole), weights(run_dir)) and losses(whole) == losses(run_dir)


@pytest.mark.parametrize("harm", [lambda content: content[:-900], lambda _: b""])
def test_an_index_cut_short_is_refused(photos, harm):
    index(photos)
    (photos / IN_PLACE).write_bytes(harm((photos / IN_PLACE).read_bytes()))
    with pytest.raises(InputError, match=f"must be intact, got {photos}/{IN_PLACE}"):
        open_folder(photos, "train", 24)


def test_a_flipped_byte_anywhere_in_an_index_gives_no_image_another_class_or_file(photos):
    source = open_folder(index(photos), "train", 24)
    files, labels = [source.file_of(number) for number in range(len(source.labels))], source.labels.copy()
    content, refused = (photos / IN_PLACE).read_bytes(), 0
    for place in range(0, len(content), 23):
        damaged = bytearray(content)
        damaged[place] ^= 1 << place % 8
        (photos / IN_PLACE).unlink()  # the source above has the earlier one in its memory
        (photos / IN_PLACE).write_bytes(damaged)
        try:
            other = open_folder(photos, "train", 24)
        except InputError:
            refused += 1
            continue
        assert np.array_equal(other.labels, labels)
        for number, file in enumerate(files):
            with contextlib.suppress(Unreadable):
                assert other.file_of(number) == file
    assert refused > 100


def packed(root: Path) -> None:
    pack(root, root.parent / "packed", 40_000)
    shutil.rmtree(root)
    (root.parent / "packed").rename(root)


def no_text(root: Path) -> None:
    os.rename(root / "train" / "dog" / "0000.png", os.fsencode(root / "train" / "dog") + b"/\xff.png")


def in_the_way(root: Path) -> None:
    (root / IN_PLACE).mkdir()


REFUSED: dict[str, tuple[Callable[[Path], object], list[str], str]] = {
    "both": (lambda _: None, ["--output", "x"], "--in-place writes no shards; drop --output and --shard-mb"),
    "shards": (lambda _: None, ["--shard-mb", "9"], "--in-place writes no shards; drop --output and --shard-mb"),
    "packed": (packed, [], "which holds large files with an index of their own; leave it as it is"),
    "no text": (no_text, [], "must have names of text"),
    "cannot be written": (in_the_way, [], "make the folder writable, or pack it into another with --output"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_indexed_is_refused_with_the_remedy(photos, capsys, name):
    harm, flags, said = REFUSED[name]
    harm(photos)
    assert exit_code(job.main, ["--data-dir", str(photos), "--in-place", *flags]) == 2
    assert said in capsys.readouterr().err
    assert not list(photos.glob("*.partial")) and not (photos / IN_PLACE).is_file()


def test_without_an_output_it_asks_for_one(photos, capsys):
    assert exit_code(job.main, ["--data-dir", str(photos)]) == 2
    assert "--output must name a new folder, got none; give it, or --in-place" in capsys.readouterr().err


def test_an_indexed_folder_can_still_be_packed(photos, tmp_path):
    index(photos)
    pack(photos, tmp_path / "packed", 40_000)
    assert (tmp_path / "packed" / FILE).is_file()
    one, two = (open_folder(place, "train", 24) for place in (photos, tmp_path / "packed"))
    assert one.contents().digest == two.contents().digest
