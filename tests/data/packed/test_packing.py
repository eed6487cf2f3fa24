"""Packed images are those of the folder: in shards that other programs read, and refused if anything differs."""

import os
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock
from PIL import Image

from tests.conftest import draw_folder
from volo.data.datasets import open_source
from volo.data.folders.damage import DamagedImages
from volo.data.folders.image import Unreadable
from volo.data.folders.imagefolder import ImageFolder
from volo.data.folders.layout import NoTestSplit
from volo.data.packed import FILE
from volo.data.packed.packing import pack
from volo.data.packed.source import PackedFolder
from volo.errors import InputError
from volo.settings.config import build_settings

SHARD = 40_000  # bytes, so that a few images fill one


@pytest.fixture
def photos(tmp_path) -> Path:
    """Two splits, a folder of validation images, uneven classes, and a file in a format of its own."""
    counts = {"train": {"cat": 20, "dog": 9}, "val": {"cat": 4, "dog": 3}, "test": {"dog": 5}}
    folder = draw_folder(tmp_path / "photos", counts, size=40)
    Image.effect_noise((61, 35), 40).save(folder / "train" / "dog" / "gräu.JPG")
    return folder


@pytest.fixture
def packed(photos, tmp_path) -> Path:
    pack(photos, tmp_path / "packed", SHARD)
    return tmp_path / "packed"


@pytest.mark.parametrize("split", ["train", "test"])
def test_packed_images_have_the_numbers_names_classes_and_pixels_of_the_folder(photos, packed, split):
    folder, other = ImageFolder(photos, split, 24), PackedFolder(packed, split, 24)
    assert other.class_names == folder.class_names
    assert other.labels.tolist() == folder.labels.tolist()
    assert other.contents().text == folder.contents().text
    assert other.contents().digest == folder.contents().digest
    assert other.contents(3).digest == folder.contents(3).digest
    held_out = [source.held_out if source.held_out is None else source.held_out.tolist() for source in (folder, other)]
    assert held_out[0] == held_out[1]
    everything = np.arange(len(folder.labels))
    for one, two in zip(folder.decode(everything), other.decode(everything), strict=True):
        assert np.array_equal(one, two)
    for number in everything.tolist():
        assert str(photos / other.name_of(number)) == folder.name_of(number)


def test_class_folders_alone_keep_the_split_that_this_project_makes(tmp_path):
    folder = draw_folder(tmp_path, {"photos": {"cat": 60, "dog": 60}}) / "photos"
    pack(folder, tmp_path / "packed", SHARD)
    for split in ("train", "test"):
        one, two = ImageFolder(folder, split, 8), PackedFolder(tmp_path / "packed", split, 8)
        assert two.is_split_here
        assert two.contents().digest == one.contents().digest


def test_without_test_images_there_is_no_test_split(tmp_path):
    folder = draw_folder(tmp_path / "photos", {"train": {"cat": 3, "dog": 3}})
    pack(folder, tmp_path / "packed", SHARD)
    with pytest.raises(NoTestSplit, match="must have a test split, got train"):
        PackedFolder(tmp_path / "packed", "test", 8)


def test_shards_are_tar_files_in_which_each_image_precedes_its_class_and_classes_are_mixed(photos, packed):
    found, order = {}, []
    for shard in sorted(packed.glob("train-*.tar")):
        with tarfile.open(shard) as tar:
            members = tar.getmembers()
            for image, label in zip(members[::2], members[1::2], strict=True):
                assert label.name == f"{Path(image.name).stem}.cls"
                found[int(Path(image.name).stem)] = tar.extractfile(image).read()
                order.append(int(tar.extractfile(label).read()))
    source = ImageFolder(photos, "train", 8)
    assert found == {number: Path(source.files[number].name).read_bytes() for number in range(30)}
    assert len(sorted(packed.glob("train-*.tar"))) > 1
    assert order != sorted(order)
    assert len(list(packed.glob("val-*.tar"))) == len(list(packed.glob("test-*.tar"))) == 1


def test_classes_of_the_test_split_have_the_numbers_of_train_in_its_shards(photos, packed):
    """It has dogs alone."""
    with tarfile.open(packed / "test-000000.tar") as tar:
        labels = {tar.extractfile(member).read() for member in tar.getmembers() if member.name.endswith(".cls")}
    assert labels == {b"1"}
    assert {*PackedFolder(packed, "test", 8).labels.tolist()} == {0}


def test_two_processes_do_not_pack_into_one_folder(photos, tmp_path):
    with FileLock(tmp_path / ".packed.lock"), pytest.raises(InputError, match="is being packed by another process"):
        pack(photos, tmp_path / "packed", SHARD)
    pack(photos, tmp_path / "packed", SHARD)
    assert {path.name for path in tmp_path.iterdir()} == {"photos", "packed"}


def test_shards_take_little_more_than_the_files(tmp_path):
    folder = tmp_path / "photos" / "train"
    for number, name in enumerate(("cat", "dog")):
        (folder / name).mkdir(parents=True)
        for index in range(20):
            noise = np.random.default_rng(10 * number + index).integers(0, 255, (200, 200, 3), dtype=np.uint8)
            Image.fromarray(noise).save(folder / name / f"{index}.png")
    done = pack(tmp_path / "photos", tmp_path / "packed", 10**9)
    assert done.written_bytes == sum(file.stat().st_size for file in (tmp_path / "packed").iterdir())
    assert done.written_bytes / done.image_bytes - 1 < 0.02


def cut_short(packed: Path) -> None:
    shard = packed / "train-000000.tar"
    os.truncate(shard, shard.stat().st_size - 512)


def taken_away(packed: Path) -> None:
    (packed / "train-000001.tar").unlink()


def index_damaged(packed: Path) -> None:
    content = bytearray((packed / FILE).read_bytes())
    place = content.find(np.arange(2, dtype=np.int32).repeat([20, 10]).tobytes())  # the labels
    content[place] ^= 1
    (packed / FILE).write_bytes(content)


def index_cut_short(packed: Path) -> None:
    os.truncate(packed / FILE, 1000)


def index_empty(packed: Path) -> None:
    (packed / FILE).write_bytes(b"")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (cut_short, r"shards must be those .* 1 of \d that differ: train-000000.tar .*bytes, not"),
        (taken_away, r"train-000001.tar \(No such file or directory\); copy them again"),
        (index_damaged, "must be intact, got .*its checksum differs"),
        (index_cut_short, "must be intact, got .*copy it again"),
        (index_empty, "must be intact, got .*copy it again"),
    ],
)
def test_what_is_damaged_is_refused_when_it_is_opened(packed, damage, said):
    damage(packed)
    data = build_settings({"data": dict(dataset="imagefolder", data_dir=str(packed))}).resolved().data
    with pytest.raises(InputError, match=said):
        open_source(data, "train")


def test_shards_of_another_index_give_no_image(photos, packed, tmp_path):
    """Of the same sizes, as after packing the folder once more with two of its files exchanged."""
    files = [photos / "train" / "cat" / f"000{number}.png" for number in range(2)]
    for file in files:
        Image.fromarray(np.full((40, 40, 3), 40 + 100 * files.index(file), np.uint8)).save(file)
    other = tmp_path / "other"
    pack(photos, other, SHARD)
    files[0].rename(tmp_path / "aside")
    files[1].rename(files[0])
    (tmp_path / "aside").rename(files[1])
    pack(photos, tmp_path / "third", SHARD)
    (tmp_path / "third" / FILE).replace(other / FILE)
    source = PackedFolder(other, "train", 8)
    read = list(source.decode(np.arange(len(source.labels))))
    wrong = [number for number, image in enumerate(read) if isinstance(image, str)]
    assert wrong == [0, 1]
    assert "other bytes there than its index says" in str(Unreadable(source.file_of(0), str(read[0])))


def test_files_that_cannot_be_read_are_all_named_and_nothing_is_left(photos, tmp_path):
    empty = [photos / "train" / "cat" / "0003.png", photos / "test" / "dog" / "0001.png"]
    for file in empty:
        file.write_bytes(b"")
    with pytest.raises(DamagedImages, match="2 of 42 that are not") as error:
        pack(photos, tmp_path / "packed", SHARD)
    assert all(str(file) in str(error.value) for file in empty)
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


def test_images_that_an_index_cannot_hold_are_refused_before_any_is_packed(photos, tmp_path):
    (photos / "train" / "cat" / "0001.png").rename(photos / "train" / "cat" / "a\udcff.png")
    (photos / "test" / "dog" / "large.png").touch()
    os.truncate(photos / "test" / "dog" / "large.png", 2**31)
    with pytest.raises(InputError, match=r"got 2 others: .*a\\udcff.png' \(no text\), .*large.png \(2,147,483,648"):
        pack(photos, tmp_path / "packed", SHARD)
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


def test_a_folder_in_use_is_not_written_to(photos, packed, tmp_path):
    with pytest.raises(InputError, match=r"must be a new or an empty folder, got .* with packed images"):
        pack(photos, packed, SHARD)
    with pytest.raises(InputError, match="with other files"):
        pack(photos, photos, SHARD)
    with pytest.raises(InputError, match="is packed already"):
        pack(packed, tmp_path / "again", SHARD)


def test_opening_an_index_lists_no_files_and_reads_no_image(packed):
    """Seen by the system: shards are asked for their size, and never opened."""
    script = (
        "import sys; from volo.data.packed.source import PackedFolder; opened = []\n"
        "sys.addaudithook(lambda event, args: opened.append((event, str(args[0]))) if event in"
        " ('open', 'os.listdir', 'os.scandir') else None)\n"
        f"PackedFolder({str(packed)!r}, 'test', 8); PackedFolder({str(packed)!r}, 'test', 8).contents().digest\n"
        f"print([one for one in opened if {str(packed)!r} in one[1]])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
