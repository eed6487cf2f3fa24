"""Tars of webdataset have the images, classes, order and splits of the image folder that they were made of."""

import os
import signal
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.conftest import draw_folder
from tests.data.tars.written import (
    add,
    by_number,
    in_json,
    named,
    numbered,
    png,
    samples_of,
    write_classes,
    write_tar,
    write_tars,
)  # fmt: skip
from volo.data.folders.imagefolder import ImageFolder
from volo.data.folders.layout import NoTestSplit
from volo.data.folders.sizing import chosen_size
from volo.data.opening import open_folder
from volo.data.packed.packing import pack
from volo.data.tars.source import TarFolder
from volo.errors import InputError

SPLITS = ("train", "test")


@pytest.fixture
def photos(tmp_path) -> Path:
    """Three splits, uneven classes, a folder in a class, names that sort otherwise than paths, and a JPEG."""
    counts = {"train": {"cat": 20, "dog": 9}, "val": {"cat": 4, "dog": 3}, "test": {"dog": 5}}
    folder = draw_folder(tmp_path / "photos", counts, size=40)
    (folder / "train" / "cat" / "more").mkdir()
    for name in ("more/0001.jpg", "more-0001.jpg"):
        Image.effect_noise((61, 35), 40).save(folder / "train" / "cat" / name)
    return folder


def assert_equal(folder: Path, tars: Path) -> None:
    for split in SPLITS:
        one, two = ImageFolder(folder, split, 24), open_folder(tars, split, 24)
        assert isinstance(two, TarFolder)
        assert two.class_names == one.class_names
        assert two.labels.tolist() == one.labels.tolist()
        assert two.contents().text == one.contents().text and two.contents().digest == one.contents().digest
        held_out = [source.held_out if source.held_out is None else source.held_out.tolist() for source in (one, two)]
        assert held_out[0] == held_out[1]
        assert two.is_split_here == one.is_split_here
        everything = np.arange(len(one.labels))
        for here, there in zip(one.decode(everything), two.decode(everything), strict=True):
            assert np.array_equal(here, there)


@pytest.mark.parametrize("label", [by_number, in_json, named])
def test_tars_have_the_numbers_names_classes_and_pixels_of_the_folder(photos, tmp_path, label):
    assert_equal(photos, write_tars(photos, tmp_path / "tars", label=label))


def test_packing_tars_gives_the_bytes_that_packing_the_folder_gives(photos, tmp_path):
    tars = write_tars(photos, tmp_path / "tars")
    for name, data in (("one", photos), ("two", tars)):
        pack(data, tmp_path / name, 40_000)
    one, two = ({file.name: file.read_bytes() for file in (tmp_path / name).iterdir()} for name in ("one", "two"))
    assert one == two and len(one) > 3


def test_tars_without_splits_are_divided_as_class_folders_alone_are(tmp_path):
    folder = draw_folder(tmp_path, {"photos": {"cat": 60, "dog": 60}}) / "photos"
    samples = samples_of(folder, ["cat", "dog"])
    for number in range(3):
        write_tar(tmp_path / "tars" / f"{number}.tar", samples[number::3])
    assert_equal(folder, write_classes(tmp_path / "tars", "cat", "dog"))
    said = TarFolder(tmp_path / "tars", "train", 8).notes[0]
    tested = len(TarFolder(tmp_path / "tars", "test", 8).labels)
    assert said.endswith(f"10% of their images, chosen by name, {tested} of 120 images, are held out as a test split")


@pytest.mark.parametrize(
    "name",
    ["{split}-000000.tar", "imagenet-{split}-0-of-1.tar", "{split}/000000.tar", "{split}.tar", "My_{split}_01.TAR"],
)
def test_splits_are_told_by_words_in_the_names_or_by_folders(photos, tmp_path, name):
    for split in ("train", "val", "test"):
        path = tmp_path / "tars" / name.format(split=split)
        write_tar(path, samples_of(photos / split, ["cat", "dog"]))
    assert_equal(photos, write_classes(tmp_path / "tars", "cat", "dog"))


def test_members_may_be_named_as_tar_names_those_of_a_folder(photos, tmp_path):
    """With folders of their own, `./` in front, the split in the name, long names, and labels after all images."""
    for split in ("train", "val", "test"):
        (tmp_path / "tars").mkdir(exist_ok=True)
        samples = samples_of(photos / split, ["cat", "dog"])
        with tarfile.open(tmp_path / "tars" / f"{split}.tar", "w") as tar:
            add(tar, ".", type=tarfile.DIRTYPE)
            add(tar, f"./{split}/", type=tarfile.DIRTYPE)
            for kind in ("png", "jpg", "cls"):
                for key, parts in samples:
                    if kind in parts:
                        add(tar, f"./{split}/{key}.{kind}", parts[kind])
    assert_equal(photos, write_classes(tmp_path / "tars", "cat", "dog"))


@pytest.mark.parametrize("pax", [False, True])
def test_names_of_any_length_and_script_are_read(tmp_path, pax):
    name = f"{'x' * 300}/gräu-{'語' * 40}"
    noise = png(1)
    samples = [(f"{name}{number}", {"png": noise, "cls": b"%d" % (number % 2)}) for number in range(4)]
    write_tar(tmp_path / "tars" / "train.tar", samples, pax)
    source = TarFolder(tmp_path / "tars", "train", 8)
    assert [source.contents().items()[number].name for number in (0, 3)] == [
        f"train/0/{name}0.png", f"train/1/{name}3.png"
    ]  # fmt: skip


def test_without_classes_txt_the_numbers_that_occur_are_the_classes_in_their_order(tmp_path):
    write_tar(tmp_path / "train-0.tar", numbered(10, 2, 2, 300, 10))
    write_tar(tmp_path / "test-0.tar", numbered(300, 10))
    train, test = (TarFolder(tmp_path, split, 8) for split in SPLITS)
    assert train.class_names == ("2", "10", "300") and train.labels.tolist() == [0, 0, 1, 1, 2]
    assert test.class_names == ("10", "300") and test.labels.tolist() == [0, 1]
    assert "the test tars in" in train.notes[0] and "have no images of '2'" in train.notes[0]


def test_classes_have_the_order_of_classes_txt(tmp_path):
    write_tar(tmp_path / "train.tar", numbered(0, 1, 1))
    write_classes(tmp_path, "zebra", "ant")
    source = TarFolder(tmp_path, "train", 8)
    assert source.class_names == ("zebra", "ant") and source.labels.tolist() == [0, 1, 1]


def test_keys_that_begin_again_in_each_tar_are_told_apart_and_that_is_said(tmp_path):
    for number in range(3):
        write_tar(tmp_path / f"train-{number}.tar", numbered(0, 1))
    source = TarFolder(tmp_path, "train", 8)
    names = [item.name for item in source.contents().items()]
    assert names == [f"train/{label}/train-{tar}/00000{label}.png" for label in (0, 1) for tar in range(3)]
    assert "keys recur in several tars" in source.notes[0]


def test_opened_again_no_tar_is_read(tmp_path):
    """Seen by the system."""
    write_tar(tmp_path / "train.tar", numbered(0, 1))
    write_tar(tmp_path / "test.tar", numbered(0, 1))
    TarFolder(tmp_path, "test", 8)
    script = (
        "import sys; from volo.data.tars.source import TarFolder; opened = []\n"
        "sys.addaudithook(lambda event, args: opened.append(str(args[0])) if event == 'open' else None)\n"
        f"print(TarFolder({str(tmp_path)!r}, 'test', 8).contents().digest != '')\n"
        f"print([one for one in opened if one.endswith('.tar')])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "[]"]


def test_a_tar_that_changed_is_read_again(tmp_path, monkeypatch):
    """As are all once `classes.txt` changed; of the index before nothing is left."""
    monkeypatch.setenv("VOLO_CACHE_DIR", str(tmp_path / "cache"))
    path = write_tar(tmp_path / "tars" / "train.tar", numbered(0, 1, 0))
    before = TarFolder(tmp_path / "tars", "train", 8)
    write_tar(path, numbered(0, 1, 1))
    after = TarFolder(tmp_path / "tars", "train", 8)
    assert before.labels.tolist() == [0, 0, 1] and after.labels.tolist() == [0, 1, 1]
    assert not {*before.keys().tolist()} & {*after.keys().tolist()}
    write_classes(tmp_path / "tars", "cat", "dog")
    assert TarFolder(tmp_path / "tars", "train", 8).class_names == ("cat", "dog")
    assert len([*(tmp_path / "cache").rglob("index.arrow")]) == 1


OPENED = "from volo.data.tars.source import TarFolder; print(TarFolder({!r}, 'test', 8).contents().digest)"


def test_of_several_processes_one_reads_the_tars_and_the_others_wait(tmp_path, monkeypatch):
    """Also if the first one is killed while it does."""
    monkeypatch.setenv("VOLO_CACHE_DIR", str(tmp_path / "cache"))
    for number in range(4):
        write_tar(tmp_path / "tars" / f"test-{number}.tar", [(f"{number}{key}", of) for key, of in numbered(0, 1)])
    read = "import os, signal\nfrom volo.data.tars import building\n"
    killed = f"{read}building.write_index = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
    counted = (
        f"{read}real = building.write_index\nbuilding.write_index = lambda *given: (print('made'), real(*given))\n"
    )
    script = OPENED.format(str(tmp_path / "tars"))
    assert subprocess.run([sys.executable, "-c", killed + script]).returncode == -signal.SIGKILL
    started = [
        subprocess.Popen([sys.executable, "-c", counted + script], stdout=subprocess.PIPE, text=True) for _ in range(3)
    ]
    said = [process.communicate()[0].split() for process in started]
    digest = TarFolder(tmp_path / "tars", "test", 8).contents().digest
    assert sorted(said, key=len) == [[digest], [digest], ["made", digest]]
    assert not [*(tmp_path / "cache").rglob("*.partial")]


@pytest.mark.parametrize("harm", [lambda path: os.truncate(path, 700), lambda path: path.write_bytes(b"")])
@pytest.mark.parametrize("name", ["index.arrow", "found.json"])
def test_a_damaged_index_is_made_again(tmp_path, monkeypatch, name, harm):
    monkeypatch.setenv("VOLO_CACHE_DIR", str(tmp_path / "cache"))
    write_tar(tmp_path / "tars" / "train.tar", numbered(0, 1, 0))
    before = TarFolder(tmp_path / "tars", "train", 8).contents().digest
    harm(next((tmp_path / "cache").rglob(name)))
    assert TarFolder(tmp_path / "tars", "train", 8).contents().digest == before


def test_a_cache_that_cannot_be_written_is_refused_with_the_way_out(tmp_path, monkeypatch):
    monkeypatch.setenv("VOLO_CACHE_DIR", str(tmp_path / "cache"))
    (tmp_path / "cache").write_text("in the way")
    write_tar(tmp_path / "tars" / "train.tar", numbered(0, 1))
    with pytest.raises(InputError, match=r"index of .*tars must fit into the cache, got .*set VOLO_CACHE_DIR"):
        TarFolder(tmp_path / "tars", "train", 8)


def test_the_size_to_train_on_is_that_of_the_photographs_in_tars(tmp_path):
    samples = [(str(number), {"png": png(number, 100), "cls": b"%d" % (number % 2)}) for number in range(4)]
    write_tar(tmp_path / "train.tar", samples)
    assert chosen_size(str(tmp_path)) == 96


def test_without_test_tars_there_is_no_test_split_and_test_tars_need_no_others(tmp_path):
    write_tar(tmp_path / "train" / "0.tar", numbered(0, 1))
    with pytest.raises(NoTestSplit, match=r"tar files must have a test split, got train in .*use --split val"):
        TarFolder(tmp_path, "test", 8)
    write_tar(tmp_path / "tests" / "test.tar", numbered(7))
    assert TarFolder(tmp_path / "tests", "test", 8).class_names == ("7",)
    with pytest.raises(InputError, match=r"must have train in their names, .*got those of test alone"):
        TarFolder(tmp_path / "tests", "train", 8)


def test_a_folder_of_classes_stays_one_where_a_tar_lies_beside_them(photos):
    write_tar(photos / "train.tar", numbered(0, 1))
    assert isinstance(open_folder(photos, "train", 8), ImageFolder)
    write_tar(photos / "train" / "cat.tar", numbered(0, 1))
    assert isinstance(open_folder(photos, "train", 8), ImageFolder)
