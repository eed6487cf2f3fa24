"""What tells image files apart: their contents where that is cheap, otherwise parts of some, the same ones anywhere."""

import shutil
from pathlib import Path

import pytest

from volo.data.contents import Differences
from volo.data.folders import reading
from volo.data.folders.imagefolder import LabeledFolder

NUM, SIZE = 20, 1000


@pytest.fixture
def images(tmp_path) -> Path:
    """Files of one size whose bytes all differ. That they are no images does not matter: nothing decodes them."""
    for number in range(NUM):
        file = tmp_path / "images" / ("cat" if number % 2 else "dog") / f"{number:02d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(bytes([number]) * SIZE)
    return tmp_path / "images"


def contents(folder: Path):
    return LabeledFolder(folder, 8).contents()


def flip(file: Path, place: int) -> None:
    content = bytearray(file.read_bytes())
    content[place] ^= 1
    file.write_bytes(content)


def many_bytes(monkeypatch) -> None:
    monkeypatch.setattr(reading, "WHOLE_BYTES", NUM * SIZE - 1)
    monkeypatch.setattr(reading, "EDGE", 100)


def many_files(monkeypatch) -> None:
    monkeypatch.setattr(reading, "WHOLE_FILES", NUM - 1)
    monkeypatch.setattr(reading, "PART_FILES", 5)


def few(monkeypatch) -> None:
    pass


@pytest.mark.parametrize(
    ("limit", "place", "num_seen"),
    [
        (few, 0, NUM),
        (few, 500, NUM),
        (few, -1, NUM),
        (many_bytes, 99, NUM),
        (many_bytes, -100, NUM),
        (many_bytes, 500, 0),
        (many_files, 500, 5),
    ],
)
def test_a_changed_byte_is_seen_in_every_small_folder_and_in_the_parts_read_of_a_large_one(
    images, monkeypatch, limit, place, num_seen
):
    limit(monkeypatch)
    before = contents(images)
    for file in images.rglob("*.png"):
        flip(file, place)
    now = contents(images)
    assert len(Differences.between(before, now).changed) == num_seen
    assert (now.digest != before.digest) == (num_seen > 0)


@pytest.mark.parametrize("limit", [few, many_bytes, many_files])
def test_a_copy_elsewhere_has_the_same_digest_and_another_size_is_seen_in_any(images, monkeypatch, limit):
    limit(monkeypatch)
    before = contents(images)
    moved = shutil.copytree(images, images.with_name("moved"), copy_function=shutil.copyfile)
    assert contents(moved).digest == before.digest
    for file in moved.rglob("*.png"):
        file.write_bytes(file.read_bytes() + b"more")
    assert len(Differences.between(before, contents(moved)).changed) == NUM


@pytest.mark.parametrize("limit", [many_bytes, many_files])
def test_a_folder_that_grew_beyond_the_limit_has_only_the_new_files_named(images, monkeypatch, limit):
    before = contents(images)
    limit(monkeypatch)
    (images / "cat" / "new.png").write_bytes(b"new")
    assert Differences.between(before, contents(images)).in_words() == "1 added (cat/new.png)"


def test_a_file_that_can_no_longer_be_read_is_another(images):
    before = contents(images)
    folder = LabeledFolder(images, 8)
    (images / "cat" / "01.png").unlink()
    assert Differences.between(before, folder.contents()).changed == ["cat/01.png"]


def test_names_are_compared_as_text_however_a_file_system_encodes_their_accents(images):
    composed, separate = "caf\u00e9.png", "cafe\u0301.png"
    (images / "cat" / composed).write_bytes(b"one")
    before = contents(images)
    (images / "cat" / composed).rename(images / "cat" / separate)
    assert contents(images).digest == before.digest
    (images / "cat" / separate).rename(images / "cat" / "b\udcff\n.png")  # no text, but a name
    differences = Differences.between(before, contents(images))
    assert differences.moved == [(f"cat/{composed}", "cat/b\udcff\n.png")]
    assert differences.in_words() == rf"1 moved (cat/{composed} to 'cat/b\udcff\n.png')"


def test_images_that_change_places_with_their_names_are_moved_and_with_their_contents_changed(images):
    before = contents(images)
    (images / "cat" / "01.png").rename(images / "dog" / "01.png")
    (images / "dog" / "02.png").rename(images / "cat" / "02.png")
    (images / "cat" / "05.png").unlink()
    (images / "dog" / "b.png").write_bytes(b"b")
    (images / "dog" / "a.png").write_bytes(b"a")
    flip(images / "dog" / "04.png", 3)
    assert Differences.between(before, contents(images)).in_words() == (
        "1 changed (dog/04.png), 2 moved (cat/01.png to dog/01.png, dog/02.png to cat/02.png), 1 missing (cat/05.png), "
        "2 added (dog/a.png, dog/b.png)"
    )
