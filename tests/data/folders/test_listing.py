"""Which files are images, which are skipped, and that training, prediction and doctor count the same."""

import logging
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from volo.analysis.explaining.images import list_images
from volo.data.datasets import open_split, open_train
from volo.data.folders.imagefolder import ImageFolder
from volo.data.folders.listing import find_folders, find_images
from volo.doctor.data import check_data
from volo.errors import InputError
from volo.settings.config import build_settings


def put(path: Path, content: bytes = b"no image") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def paint(path: Path, form: str | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), "red").save(path, form)
    return path


def names(root: Path) -> list[str]:
    return [os.path.relpath(file.name, root) for file in find_images(root).files]


def counts(root: Path) -> dict[str, int]:
    return {reason: kind.num_found for reason, kind in find_images(root).passed_over.kinds.items()}


def test_images_are_found_at_any_depth_in_the_order_of_their_paths(tmp_path):
    for name in ("b/c/d/e.JPG", "b-1.png", "b/f.webp", "a.png", "z.bmp"):
        put(tmp_path / name)
    expected = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file())
    assert names(tmp_path) == list(map(str, expected))


@pytest.mark.parametrize("place", [".", "deep/er"])
@pytest.mark.parametrize("hidden", [".ipynb_checkpoints/a.png", ".thumbnails/large/a.png", ".a.png", ".cache"])
def test_hidden_files_and_folders_are_skipped_at_any_depth(tmp_path, place, hidden):
    put(tmp_path / place / "seen.png")
    put(tmp_path / place / hidden)
    assert names(tmp_path) == [os.path.normpath(f"{place}/seen.png")]
    assert counts(tmp_path) == {"hidden": 1}


@pytest.mark.parametrize(
    "left", ["@eaDir/a.png", "__MACOSX/a/._a.png", "._a.png", ".DS_Store", "Thumbs.db", "desktop.ini", "#recycle/a.png"]
)
def test_what_systems_leave_in_folders_is_neither_listed_nor_counted(tmp_path, left):
    put(tmp_path / "cat" / "a.png")
    put(tmp_path / "cat" / left)
    put(tmp_path / left)
    assert names(tmp_path) == ["cat/a.png"]
    assert counts(tmp_path) == {}
    assert find_folders(tmp_path)[0] == [str(tmp_path / "cat")]


def test_links_to_files_and_folders_are_followed_and_cycles_end(tmp_path):
    outside = tmp_path / "outside"
    put(outside / "deep" / "a.png")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "folder").symlink_to(outside)
    (tmp_path / "in" / "file.png").symlink_to(outside / "deep" / "a.png")
    (outside / "back").symlink_to(tmp_path / "in")
    (outside / "self").symlink_to(outside)
    assert names(tmp_path / "in") == ["file.png", "folder/deep/a.png"]
    assert counts(tmp_path / "in") == {"listed": 2}


def test_a_folder_that_two_links_lead_to_is_listed_once(tmp_path):
    put(tmp_path / "outside" / "a.png")
    (tmp_path / "in").mkdir()
    for name in ("x", "y"):
        (tmp_path / "in" / name).symlink_to(tmp_path / "outside")
    assert names(tmp_path / "in") == ["x/a.png"]


def test_dead_and_circular_links_are_counted(tmp_path):
    (tmp_path / "dead.png").symlink_to(tmp_path / "nothing")
    (tmp_path / "round.png").symlink_to(tmp_path / "round.png")
    (tmp_path / "folder").symlink_to(tmp_path / "nothing")
    assert names(tmp_path) == []
    assert counts(tmp_path) == {"dead link": 3}


def test_pipes_are_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    os.mkfifo(tmp_path / "pipe")
    assert counts(tmp_path) == {"special": 2}


def test_suffixes_of_formats_that_pillow_does_not_read_are_counted_each(tmp_path):
    for name in ("a.jxl", "b.JXL", "c.txt", "d.json", "e.pdf", "f.eps"):
        put(tmp_path / name)
    assert counts(tmp_path) == {".jxl": 2, ".txt": 1, ".json": 1, ".pdf": 1, ".eps": 1}


@pytest.mark.parametrize("name", ["0a1b2c", "frame.0001", "photo.2024-01-02", "No. two", "photo.png ", "dot."])
def test_a_file_without_a_suffix_is_an_image_if_its_content_is(tmp_path, name):
    paint(tmp_path / name, "PNG")
    put(tmp_path / "LICENSE", b"BM is how a bitmap begins, and P6 a portable one")
    put(tmp_path / "empty", b"")
    assert names(tmp_path) == [name]
    assert counts(tmp_path) == {"no suffix": 2}


def test_a_folder_that_cannot_be_read_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"a folder of images must be readable, got .*none \(No such file"):
        find_images(tmp_path / "none")
    with pytest.raises(InputError, match=r"a folder of images must be readable, got .*file \(Not a directory"):
        find_images(put(tmp_path / "file"))


def test_names_of_any_bytes_are_listed_and_can_be_printed(folder):
    for name in (b"no\xffutf8.png", b"two\nlines.png"):
        paint(folder / "train" / "cat" / os.fsdecode(name))
    for name in (b"no\xffutf8.jxl", b"\xff.\xff", b"\x1b[31m.txt"):
        put(folder / "train" / "cat" / os.fsdecode(name))
    found = check_data(resolved(folder))
    assert found.found.startswith("82 images of 2 classes")
    assert found.found.isprintable()
    assert "1 .jxl file" in found.found and "1 file without a suffix that is not an image" in found.found


# Files as people have them in a class folder: the name, and whether the doctor should warn.
PASSED_OVER = {
    "a.jxl": True,
    "a.CR2": True,
    "a.jpg_large": True,
    "dead.jpg": True,
    "a.txt": False,
    "a.json": False,
    "LICENSE": False,
    ".ipynb_checkpoints": False,
}


def leave(folder: Path, name: str) -> None:
    if name == "dead.jpg":
        (folder / name).symlink_to("nothing")
    elif name == "a.jpg_large":
        paint(folder / name, "JPEG")
    elif name == ".ipynb_checkpoints":
        paint(folder / name / "a.png")
    else:
        put(folder / name)


def resolved(folder: Path):
    return build_settings({"data": dict(dataset="imagefolder", data_dir=str(folder))}).resolved().data


@pytest.mark.parametrize("name", PASSED_OVER)
def test_doctor_names_skipped_entries_and_warns_only_about_images(folder, name):
    leave(folder / "train" / "dog", name)
    found = check_data(resolved(folder))
    assert found.status == ("warning" if PASSED_OVER[name] else "ok")
    assert found.found.startswith("80 images of 2 classes")
    assert "; skipped: 1 " in found.found and f"{folder / 'train' / 'dog' / name}" in found.found
    assert bool(found.remedy) == PASSED_OVER[name]


@pytest.mark.parametrize("name", PASSED_OVER)
def test_a_class_of_only_other_files_is_refused_with_what_was_found(folder, name):
    (folder / "train" / "owl").mkdir()
    leave(folder / "train" / "owl", name)
    with pytest.raises(InputError) as refused:
        ImageFolder(folder, "train", 8)
    assert f"got none in {folder}/train/owl but 1 " in str(refused.value)
    assert str(refused.value).endswith(" or remove the folder")


def test_a_class_of_only_files_of_another_format_is_refused_with_their_number(folder):
    for number in range(3):
        put(folder / "train" / "owl" / f"{number}.JXL")
    with pytest.raises(InputError, match=r"got none in .*owl but 3 \.jxl files .*; convert .* to JPEG or PNG"):
        ImageFolder(folder, "train", 8)


def test_images_beside_the_class_folders_and_dead_class_links_are_counted(folder):
    paint(folder / "train" / "loose.png")
    (folder / "train" / "owl").symlink_to("nothing")
    found = check_data(resolved(folder))
    assert found.status == "warning"
    assert "1 link that leads nowhere" in found.found and "1 image outside the class folders" in found.found


def test_linked_class_folders_are_classes_and_system_folders_are_not(folder):
    shutil.move(folder / "train" / "cat", folder / "elsewhere")
    (folder / "train" / "cat").symlink_to(folder / "elsewhere")
    paint(folder / "train" / "@eaDir" / "a.png")
    source = ImageFolder(folder, "train", 8)
    assert source.class_names == ("cat", "dog")
    assert np.bincount(source.labels).tolist() == [40, 40]


KINDS = ("png", "PNG", "jxl", "txt", "dead", "hidden", "bare", "text", "link")


@pytest.mark.parametrize("splits", [("train", "val", "test"), ("train", "test"), ("",)])
def test_skipped_entries_are_counted_once_however_the_images_are_split(tmp_path, caplog, splits):
    """Class folders alone are listed for train and for test."""
    caplog.set_level(logging.INFO, "volo")
    for split in splits:
        for name in ("cat", "dog"):
            put(tmp_path / split / name / "a.jxl")
            for number in range(30):
                paint(tmp_path / split / name / f"{number}.png")
    data = resolved(tmp_path)
    assert f"skipped: {2 * len(splits)} .jxl files" in check_data(data).found
    assert caplog.messages == []  # the doctor's table shows it
    open_train(data, is_new=True)
    open_train(data)
    open_split(data, "test")
    assert len(caplog.messages) == {3: 2, 2: 2, 1: 1}[len(splits)]  # each folder once
    said = [re.match(r"(.*): (\d+) images; skipped: (\d+) ", message) for message in caplog.messages]
    for place, num_images, num_passed in (match.groups() for match in said):
        folders = [tmp_path.joinpath(folder) for folder in place.split(" and ")]
        assert int(num_images) == sum(len([*folder.rglob("*.png")]) for folder in folders)
        assert int(num_passed) == sum(len([*folder.rglob("*.jxl")]) for folder in folders)


@pytest.mark.parametrize("seed", range(4))
def test_every_count_agrees_with_the_file_system_everywhere(tmp_path, caplog, seed):
    rng, root = np.random.default_rng(seed), tmp_path
    kinds = ["png", "png", *rng.choice(KINDS, rng.integers(40))]
    target = paint(root / "elsewhere.png")
    for number, kind in enumerate(kinds):
        place = ("a", "b", "a/x", "b/y/z")[number % 4]
        path = root / "train" / place / f"{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        match kind:
            case "dead":
                path.symlink_to(root / "nothing")
            case "hidden":
                paint(path.with_name(f".{number}.png"))
            case "bare":
                paint(path, "PNG")
            case "text":
                put(path)
            case "link":
                path.symlink_to(target)
            case _:
                paint(path.with_suffix(f".{kind}"), "PNG")
    num_images = sum(map(kinds.count, ("png", "PNG", "bare", "link")))
    passed = {
        ".jxl file": kinds.count("jxl"),
        ".txt file": kinds.count("txt"),
        "link": kinds.count("dead"),
        "hidden file": kinds.count("hidden"),
        "file": kinds.count("text"),
    }
    expected = {name: count for name, count in passed.items() if count}

    caplog.set_level(logging.INFO, "volo")
    source = ImageFolder(root, "train", 8)
    source.say_passed_over()
    said = [record.message for record in caplog.records]
    predicted = list_images([str(root / "train"), str(root / "train" / "a")])
    diagnosed = check_data(resolved(root)).found

    assert len(source.files) == len(source.labels) == len(predicted.files) == num_images
    assert f"{num_images:,} images of 2 classes" in diagnosed
    assert len(said) == bool(expected)
    for words in (*said, diagnosed, predicted.passed_over.in_words()):
        for name, count in expected.items():
            assert re.search(rf"(?<!\d){count} {re.escape(name)}", words), words
    if said:
        assert said[0].startswith(f"{root / 'train'}: {num_images} images; skipped: ")
