"""What is wrong with tars is refused before anything is trained, with a remedy that works, or passed over and said."""

import gzip
import os
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from tests.data.tars.written import add, numbered, png, write_classes, write_tar
from volo.data.datasets import open_train
from volo.data.folders.damage import DamagedImages
from volo.data.packed.packing import pack
from volo.data.tars.layout import CLASSES, has_tars
from volo.data.tars.source import TarFolder
from volo.doctor.data import check_data
from volo.errors import InputError
from volo.log import LOGGER
from volo.settings.config import build_settings

GOOD = numbered(*[0, 1] * 12)
FIRST = "train-000000.tar"


def data_of(folder: Path, **values):
    data = dict(dataset="imagefolder", data_dir=str(folder), image_size=8, **values)
    return build_settings({"data": data}).resolved().data


@pytest.fixture
def tars(tmp_path) -> Path:
    """Two whole tars."""
    for number in range(2):
        samples = [(f"{number}-{key}", parts) for key, parts in GOOD]
        write_tar(tmp_path / "tars" / f"train-{number:06}.tar", samples)
    return tmp_path / "tars"


def labeled(kind: str, content: bytes) -> Callable[[Path], object]:
    """One more tar, of an image with that label."""
    return lambda tars: write_tar(tars / "train-x.tar", [("a/odd", {"png": png(99), kind: content})])


def harmed(change: Callable[[bytes], bytes]) -> Callable[[Path], object]:
    def harm(tars: Path) -> None:
        (tars / FIRST).write_bytes(change((tars / FIRST).read_bytes()))

    return harm


def with_members(*members: tuple[str, dict]) -> Callable[[Path], object]:
    def harm(tars: Path) -> None:
        with tarfile.open(tars / "train-x.tar", "w") as tar:
            for name, others in members:
                add(tar, name, **others)

    return harm


def compressed(tars: Path) -> None:
    (tars / f"{FIRST}.gz").write_bytes(gzip.compress((tars / FIRST).read_bytes()))
    (tars / FIRST).unlink()


def nested(tars: Path) -> None:
    """As the archive of ImageNet: a tar of each class."""
    content = (tars / FIRST).read_bytes()
    for file in tars.iterdir():
        file.unlink()
    with tarfile.open(tars / "ILSVRC2012_img_train.tar", "w") as tar:
        for name in ("n01440764.tar", "n01443537.tar"):
            add(tar, name, content)


def two_splits(tars: Path) -> None:
    (tars / FIRST).rename(tars / "train-and-val.tar")


def two_validations(tars: Path) -> None:
    for name in ("val", "valid"):
        write_tar(tars / f"{name}.tar", numbered(0, 1))


def of_split(split: str, *numbers: int) -> Callable[[Path], object]:
    return lambda tars: write_tar(tars / f"{split}.tar", numbered(*numbers))


def classes(*names: str) -> Callable[[Path], object]:
    return lambda tars: write_classes(tars, *names)


def again(tars: Path) -> None:
    """The same key twice in a tar."""
    with tarfile.open(tars / FIRST, "a") as tar:
        add(tar, "0-000003.png", png(3))
        add(tar, "0-000004.jpg", png(4))
        add(tar, "0-000005.cls", b"1")


def one_class(tars: Path) -> None:
    for file in tars.iterdir():
        write_tar(file, numbered(4, 4))


def without_labels(tars: Path) -> None:
    for file in tars.iterdir():
        write_tar(file, [(key, {"png": parts["png"]}) for key, parts in numbered(0, 1)])


CUT = "copy or make them again"
LABEL = r"correct them, or name all classes in .*/classes.txt, one in a line"
REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "cut within an image": (harmed(lambda content: content[:1700]), rf"got 1 .*{FIRST} \(it is cut short .*{CUT}"),
    "cut between members": (harmed(lambda content: content[: 512 * 5]), rf"{FIRST} \(it is cut short: .*mark of"),
    "cut in a header": (harmed(lambda content: content[: 512 * 5 + 100]), rf"{FIRST} \(it is cut short"),
    "empty": (harmed(lambda _: b""), rf"{FIRST} \(it is empty\)"),
    "a damaged header": (
        harmed(lambda content: content[:1024] + b"x" * 512 + content[1536:]), rf"{FIRST} \(there is no member at byte"
    ),
    "no tar": (harmed(lambda _: b"no tar" * 1000), rf"{FIRST} \(it is no tar file\)"),
    "two joined": (harmed(lambda content: content * 2), rf"{FIRST} \(it goes on after the mark of its end"),
    "compressed under the name of a tar": (harmed(gzip.compress), rf"{FIRST} \(it is compressed with gzip.*decompress"),
    "compressed": (compressed, rf"must be uncompressed, .*got 1 .*{FIRST}.gz; decompress them"),
    "tars in a tar": (nested, r"must hold images with labels, got none in 1 .*2 \.tar files.*or unpack them"),
    "without labels": (without_labels, r"got none .* but 4 images without a label .*; give each image KEY.cls"),
    "two splits in a name": (two_splits, r"must hold the name of one split, got 1 .*train-and-val.tar; rename them"),
    "two validation splits": (two_validations, r"must have one validation split, got val and valid in .*; remove"),
    "a class that train lacks": (of_split("val", 0, 5), r"val must have no classes that train lacks, got 1 of 2 .*'5'"),
    "one to test on that train lacks": (of_split("test", 0, 5), r"test must have no classes that train lacks, got 1"),
    "one class": (one_class, r"at least two classes, got 1 in the tars of .*; add the tars that hold the others"),
    "a key repeated": (again, rf"one image, and one label of a kind, got 3 .*0-000003.png in {FIRST}, 0-000004.jpg in"),
    "a class without images": (classes("a", "b", "c"), r"got none of 1 of the 3 in .*classes.txt: 'c'; add the tars"),
    "a number beyond the classes": (classes("a"), r"got 24 .*\(1 is not in 0 to 0\)"),
    "a class twice": (classes("a", "b", "a"), r"another class in each line, got line 3: 'a' a second time; correct it"),
    "a line without a class": (classes("a", "", "b"), r"got line 2: '' is no name of a class; correct it"),
    "a name without classes.txt": (labeled("cls", b"cat"), rf"a/odd in train-x.tar \('cat' is no number\); {LABEL}"),
    "a caption": (labeled("txt", b"a cat on a mat"), r"\('a cat on a mat' is no number\)"),
    "a negative number": (labeled("cls", b"-1"), r"\(-1 is not in 0 to"),
    "a fraction": (labeled("json", b'{"label": 1.5}'), r"\(label 1\.5\)"),
    "true": (labeled("json", b'{"cls": true}'), r"\(label True\)"),
    "a list": (labeled("json", b"[1]"), r"\(no JSON object\)"),
    "no JSON": (labeled("json", b"{'label': 1}"), r"\(no JSON in UTF-8\)"),
    "JSON without end": (labeled("json", b'{"label": ' + b"[" * 100_000), r"\(no JSON in UTF-8\)"),
    "a huge number": (labeled("json", b'{"label": 1' + b"0" * 5000 + b"}"), r"a/odd in train-x.tar"),
    "a label that is no text": (labeled("cls", b"\xff\xfe"), r"\(no text in UTF-8\)"),
    "an empty label": (labeled("cls", b" \n"), r"\(an empty label\)"),
    "a long label": (labeled("txt", b"1" * (2**20 + 1)), r"\(1,048,577 bytes of txt\)"),
    "a sparse member": (
        with_members(("big.png", dict(type=tarfile.GNUTYPE_SPARSE))), r"train-x.tar \(it holds sparse files"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_trained_on_is_refused_by_name(tars, name):
    harm, said = REFUSED[name]
    harm(tars)
    for opened in (lambda: open_train(data_of(tars), is_new=True), lambda: pack(tars, tars / "packed", 10**6)):
        with pytest.raises(InputError, match=said):
            opened()


def followed(tars: Path, name: str) -> None:
    """What the message says to do."""
    if name == "compressed":
        (tars / FIRST).write_bytes(gzip.decompress((tars / f"{FIRST}.gz").read_bytes()))
        (tars / f"{FIRST}.gz").unlink()
    elif name == "a class without images":
        (tars / CLASSES).unlink()
    elif name == "a name without classes.txt":
        write_classes(tars, "dog", "cat")
    elif name == "without labels":
        for file in tars.iterdir():
            write_tar(file, [(f"{file.stem}-{key}", parts) for key, parts in GOOD])
    elif name == "two splits in a name":
        (tars / "train-and-val.tar").rename(tars / "train.tar")
    else:
        (tars / ("val.tar" if (tars / "val.tar").exists() else FIRST)).unlink()


REMEDIED = ("compressed", "a class without images", "a name without classes.txt", "without labels", "a key repeated")
REMEDIED = (*REMEDIED, "two splits in a name", "two validation splits", "a class that train lacks", "two joined")


@pytest.mark.parametrize("name", REMEDIED)
def test_the_remedy_is_accepted(tars, name):
    REFUSED[name][0](tars)
    with pytest.raises(InputError):
        open_train(data_of(tars))
    followed(tars, name)
    images, split = open_train(data_of(tars), is_new=True)
    assert len(split.train) and len(split.val) and len(images.class_names) == 2


def test_an_unknown_name_of_a_class_is_refused(tars):
    write_classes(tars, "cat", "dog")
    labeled("txt", b"owl")(tars)
    with pytest.raises(InputError, match=r"a/odd in train-x.tar \('owl' is no line of classes.txt\); correct them"):
        open_train(data_of(tars))


def test_all_damaged_tars_are_named_at_once(tars):
    for file in tars.iterdir():
        os.truncate(file, 1200)
    with pytest.raises(InputError, match=rf"got 2 .*{FIRST} .*train-000001.tar"):
        open_train(data_of(tars))


@dataclass(frozen=True)
class Skipped:
    """Members beside whole samples, and what is said of them."""

    members: list[tuple[str, dict]]
    said: str
    remedy: str = ""


LINK = dict(type=tarfile.SYMTYPE, linkname="0-000001.png")
PASSED_OVER = {
    "links": Skipped(
        [("a.png", LINK), ("a.cls", LINK), ("b.png", LINK | dict(type=tarfile.LNKTYPE))],
        "3 links in tars (the first is train-x.tar: a.png)", "with what the links lead to",
    ),
    "absolute names": Skipped(
        [("/etc/a.png", {}), ("/etc/a.cls", {})], "2 absolute names, or names with ..", "relative to a folder"
    ),
    "names that lead out": Skipped([("a/../../b.png", {})], "1 absolute name, or one with .. (train-x.tar: a/../.."),
    "devices": Skipped([("a.png", dict(type=tarfile.CHRTYPE)), ("b", dict(type=tarfile.FIFOTYPE))], "2 pipes, sockets"),
    "an image without a label": Skipped(
        [("a.png", {})], "1 image without a label (train-x.tar: a.png)", "give each image KEY.cls"
    ),
    "a label without an image": Skipped([("a.cls", dict(content=b"1"))], "1 label without an image (train-x.tar: a)"),
    "an object without a class": Skipped(
        [("a.png", {}), ("a.json", dict(content=b'{"width": 3}'))], "1 image without a label"
    ),
    "other formats": Skipped([("a.jxl", {}), ("a.npy", {})], "1 .jxl file (train-x.tar: a.jxl), 1 .npy", "JPEG"),
    "dots": Skipped([("a.1.png", {})], "1 image with more than one dot in its name", "keys without dots"),
    "no suffix": Skipped([("README", {})], "1 file without a suffix that is not an image (train-x.tar: README)"),
    "hidden": Skipped([(".a.png", {}), (".git/b.png", {})], "2 hidden files or folders"),
    "no text": Skipped([("a\udcff.png", {})], "1 name that is no text ('train-x.tar: a\\udcff.png')"),
}  # fmt: skip


@pytest.mark.parametrize("name", PASSED_OVER)
def test_what_is_no_image_with_a_label_is_passed_over_and_said(tars, name, monkeypatch):
    case, lines = PASSED_OVER[name], list[str]()
    monkeypatch.setattr(LOGGER, "info", lambda text, *args: lines.append(text % args if args else text))
    with_members(*case.members)(tars)
    images, _ = open_train(data_of(tars), is_new=True)
    assert len(images) == 48
    [said] = [line for line in lines if "skipped" in line]
    assert f"train tars in {tars}: 48 images; skipped: {case.said}" in said
    found = check_data(data_of(tars))
    assert case.said in found.found and case.remedy in found.remedy


def test_what_systems_leave_in_tars_is_not_worth_a_word(tars):
    with_members(("__MACOSX/._a.png", {}), ("._a.png", {}), ("Thumbs.db", {}), ("a", dict(type=tarfile.DIRTYPE)))(tars)
    assert not TarFolder(tars, "train", 8).passed_over


def test_what_lies_beside_tars_is_said_and_tars_of_no_split_are_not_used(tars):
    write_tar(tars / "more.tar", numbered(0, 1))
    (tars / "README.md").write_text("cats")
    (tars / "gone.tar").symlink_to("nowhere")
    (tars / "a.png").write_bytes(png(1))
    write_tar(tars / "train-\udcff.tar", numbered(0, 1))
    source = TarFolder(tars, "train", 8)
    assert f"not used: more.tar in {tars}" in source.notes and len(source.labels) == 48
    said = source.passed_over.in_words()
    assert r"1 name that is no text ('train-\udcff.tar')" in said
    for part in ("1 link that leads nowhere (gone.tar)", "1 .md file (README.md)", "1 image beside the tars (a.png)"):
        assert part in said


def test_damaged_images_in_tars_are_all_named_or_left_out(tars):
    damaged = [("y", {"png": png(5)[:-300], "cls": b"0"}), ("z", {"png": b"", "cls": b"1"})]
    write_tar(tars / "train-x.tar", damaged)
    name = rf"train/0/y.png in {tars}/train-x.tar \(image file is truncated"
    with pytest.raises(DamagedImages, match=rf"got 2 of 50 that are not:\n  {name}.*\n  train/1/z.png in "):
        open_train(data_of(tars))
    images, split = open_train(data_of(tars, skip_damaged=True))
    assert len(images.damaged) == 2 and len(split.train) + len(split.val) == 48
    with pytest.raises(DamagedImages, match=r"got 1 of 50 that is not:\n  train/1/z.png in .*an empty file"):
        pack(tars, tars.parent / "packed", 10**6)


def test_a_tar_that_is_cut_while_it_is_in_use_gives_no_image(tars):
    source = TarFolder(tars, "train", 8)
    os.truncate(tars / FIRST, 2000)
    found = list(source.decode(np.arange(48)))
    wrong = [image for image in found if isinstance(image, str)]
    assert 20 < len(wrong) < 25 and set(wrong) == {f"{FIRST} ends before it; copy it again"}


def test_a_folder_that_cannot_be_listed_or_is_not_there_holds_no_tars(tmp_path):
    assert not has_tars(tmp_path) and not has_tars(tmp_path / "gone")
