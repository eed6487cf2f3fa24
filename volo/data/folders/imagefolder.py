"""Image folders: `<data_dir>/<split>/<class>/<any image file>`, `<data_dir>/<class>/<any image file>`, or any files
with a table of their classes."""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from volo.data.contents import Contents, Item
from volo.data.decoded.store import KEY
from volo.data.folders.class_names import extra, is_text, plain, quoted
from volo.data.folders.encoded import EncodedImages
from volo.data.folders.layout import TEST, TEST_SHARE, TRAIN, Layout, NoTestSplit, find_layout, in_test
from volo.data.folders.listing import ImageFile, find_folders, find_images
from volo.data.folders.passed_over import PassedOver
from volo.data.folders.reading import digests
from volo.data.folders.table import NAME as TABLE
from volo.data.folders.table import SPLIT, VAL, LabeledFile, has_table, read_table
from volo.errors import InputError
from volo.settings.data import RGB
from volo.settings.paths import folder_to_read

ALL = ""  # in place of a split
NUMBERS = {1: "one class", 2: "two classes"}


class FileImages(EncodedImages):
    """Images in files of their own, by classes; names are compared as in volo/data/folders/class_names.py.

    Attributes:
        root: The folder that they lie below.
        files: (N,) the images below each class's folder (volo/data/folders/listing.py), class by class.
        folders: That were listed, or the table, and when each had changed last.
    """

    root: Path
    is_table = False

    def _take(self, classes: "Classes", place: str) -> None:
        self.files, self.labels, self.place, self.num_listed = classes.files, classes.labels, place, len(classes.files)
        self.class_names, self.passed_over, self.folders = classes.class_names, classes.passed_over, classes.folders

    def fingerprint(self) -> str:
        return fingerprint(self.root, self._cut())

    def keys(self) -> np.ndarray:
        texts = (f"{self._below(file)}\0{file.size}\0{file.changed_ns}" for file in self.files)
        digests = (hashlib.blake2b(_encoded(text), digest_size=KEY.itemsize).digest() for text in texts)
        return np.array(list(digests), dtype=KEY)

    def contents(self, num_images: int | None = None) -> Contents:
        files = self.files[:num_images]
        names = ["/".join(map(plain, self._below(file).split(os.sep))) for file in files]
        read = digests(files, names)
        if self.is_table:  # the names above tell no classes
            names = [f"{name} as {self.class_names[label]}" for name, label in zip(names, self.labels, strict=False)]
        return Contents.of(Item(*each) for each in zip(names, (file.size for file in files), read, strict=True))

    def sizes(self) -> np.ndarray:
        return np.array([file.size for file in self.files], np.int64)

    def name_of(self, number: int) -> str:
        return self.files[number].name

    def file_of(self, number: int) -> str:
        return self.files[number].name

    def _below(self, file: ImageFile) -> str:
        return _below(self.root, file)


class LabeledFolder(FileImages):
    """All images in a folder of class folders; a `Source`. Classes are the folders, sorted.

    Raises:
        InputError: a missing folder, one without class folders, a class without images, a name that is not text.
    """

    def __init__(
        self, folder: str | Path, image_size: int, resize: str = "crop", crop_pct: float = 1.0, in_chans: int = RGB
    ):
        super().__init__(folder, ALL, image_size, resize, crop_pct, in_chans)

    def _open(self, data_dir: str | Path, split: str) -> None:
        self.root = Path(data_dir)
        self._take(_listed(self.root, min_classes=1), str(self.root))


class ImageFolder(FileImages):
    """The split `train` or `test` of an image folder (volo/data/folders/layout.py), or of one with a table
    (volo/data/folders/table.py); a `Source`.

    In `train` the folder's own validation images come last; `held_out` holds their numbers. `is_split_here`: the root
    holds class folders alone, some of whose images are the test split. `said`: the notes on the splits.

    Raises:
        InputError: as `LabeledFolder` and `find_layout`; fewer than two classes in train, or classes in another split
            that train does not have.
        NoTestSplit: the folder has no test split.
    """

    said: tuple[str, ...] = ()

    def _open(self, data_dir: str | Path, split: str) -> None:
        self.root = folder_to_read(data_dir, "--data-dir")
        self._find(split)
        self.notes = (*self.said, *(self._judged() if split == TRAIN else ()))

    def _find(self, split: str) -> None:
        if has_table(self.root):
            self.is_table = True
            self._take_table(read_table(self.root), split)
            return
        test = self.root / TEST
        if split == TEST and test.is_dir():  # train may have been deleted by now
            self._take(_listed(test, min_classes=1), str(test))
            return
        layout = find_layout(self.root)
        if layout.is_split_here:
            whole = f"{self.root} has no {TRAIN}: {TEST_SHARE:.0%} of its class folders"
            self._take_part(_listed(self.root, min_classes=2), split, whole)
        elif split == TEST:
            raise NoTestSplit(
                f"a test split must be in {test}/<class>/<images>, got no such folder; use --split val, or pass "
                "labeled images with --data-dir"
            )
        else:
            self._take_train(layout)

    def _take_train(self, layout: Layout) -> None:
        train = _listed(layout.train, min_classes=2)
        self._take(train, str(layout.train))
        notes = [f"not used: {', '.join(layout.unused)} in {self.root}"] if layout.unused else []
        if layout.val:
            val = _listed(layout.val, min_classes=1)
            notes += _compared(train.class_names, layout, val.class_names, layout.val)
            self._take(train.followed_by(val), f"{layout.train} and {layout.val}")
            self.held_out = np.arange(len(train.files), len(self.files))
            notes.append(f"{len(val.files):,} validation images in {layout.val}")
        if layout.test:
            notes += _compared(train.class_names, layout, _names(_class_folders(layout.test)[0]), layout.test)
        self.said = tuple(notes)

    def _take_table(self, rows: list[LabeledFile], split: str) -> None:
        """Of a table without a column for it, the split is made here."""
        table = self.root / TABLE
        parts = {name: [row for row in rows if row.split == name] for name in (TRAIN, VAL, TEST, "")}
        if not (parts[TRAIN] or parts[""]):
            raise InputError(f"{table} must have images to train on, got none in split {TRAIN}; add some")
        train = _tabled(parts[TRAIN] or parts[""], str(table), min_classes=2)
        if parts[""]:
            self._take_part(train, split, f"{table} has no column {SPLIT}: {TEST_SHARE:.0%} of each class")
        elif split == TRAIN:
            self._take(train, str(table))
            if parts[VAL]:
                val = _tabled(parts[VAL], str(table))
                _check_known(val.class_names, train.class_names, VAL, str(table))
                self._take(train.followed_by(val), str(table))
                self.held_out = np.arange(len(train.files), len(self.files))
                self.said = (f"{len(val.files):,} validation images, as {table} says",)
        elif parts[TEST]:
            test = _tabled(parts[TEST], str(table))
            _check_known(test.class_names, train.class_names, TEST, str(table))
            self._take(test, str(table))
        else:
            raise NoTestSplit(
                f"{table} must have images in split {TEST}, got none; use --split val, or pass labeled images with "
                "--data-dir"
            )

    def _take_part(self, classes: "Classes", split: str, whole: str) -> None:
        """`whole`: what is divided, in words."""
        self.is_split_here = True
        is_test = in_test([_below(self.root, file) for file in classes.files], classes.labels)
        self._take(classes.where(is_test if split == TEST else ~is_test), str(self.root))
        self.num_listed = len(classes.files)
        self.said = (
            f"{whole}, chosen by file name, {is_test.sum():,} of {len(is_test):,} images, are held out as a test split",
        )
        if not self.files:
            raise NoTestSplit(
                f"a test split must hold images, got none of the {len(is_test):,} in {self.root}, which are too few to "
                "split; use --split val, or pass labeled images with --data-dir"
            )


@dataclass(frozen=True)
class Classes:
    """Images class by class: (N,) files and int64 labels, which are indices into the class names."""

    files: list[ImageFile]
    labels: np.ndarray
    class_names: tuple[str, ...]
    passed_over: PassedOver
    folders: dict[str, int]

    def where(self, mask: np.ndarray) -> "Classes":
        """Only the images in the mask; the classes stay."""
        files = [file for file, is_wanted in zip(self.files, mask.tolist(), strict=True) if is_wanted]
        return replace(self, files=files, labels=self.labels[mask])

    def followed_by(self, other: "Classes") -> "Classes":
        """Appends the images of another folder, whose classes must be among these."""
        order = np.array([self.class_names.index(name) for name in other.class_names], dtype=np.int64)
        self.passed_over.add(other.passed_over)
        files, labels = self.files + other.files, np.append(self.labels, order[other.labels])
        return replace(self, files=files, labels=labels, folders=self.folders | other.folders)


def fingerprint(root: Path, cut: str) -> str:
    """Of a `Source` of the files in a folder."""
    return f"imagefolder 3 {cut} {root.absolute()}"


def _tabled(rows: list[LabeledFile], table: str, min_classes: int = 1) -> Classes:
    """Rows in the order of their classes."""
    class_names = sorted({row.class_name for row in rows})
    _check_number(class_names, min_classes, table, "name more of them in the table")
    place = {name: label for label, name in enumerate(class_names)}
    labels = np.array([place[row.class_name] for row in rows], dtype=np.int64)
    files = [row.file for row in rows]
    return Classes(files, labels, tuple(class_names), PassedOver(), {table: os.stat(table).st_mtime_ns})


def _check_number(classes: Sequence[str], min_classes: int, place: object, remedy: str) -> None:
    if len(classes) < min_classes:
        raise InputError(
            f"a data set must have at least {NUMBERS[min_classes]}, got {len(classes)} in {place}; {remedy}"
        )


def _listed(root: Path, min_classes: int) -> Classes:
    changed = {str(root): os.stat(root).st_mtime_ns} if root.is_dir() else {}
    folders, passed_over = _class_folders(root)
    files, labels, empty = [], [], []
    for label, folder in enumerate(folders):
        found = find_images(folder)
        changed |= found.folders
        if not found.files:
            empty.append(_empty_class(folder, found.passed_over))
        files += found.files
        labels += [label] * len(found.files)
        passed_over.add(found.passed_over)
    if empty:
        raise InputError("\n".join(map(str, empty)))
    remedy = "give every class a folder there, or pass the folder above train and test with --data-dir"
    _check_number(folders, min_classes, root, remedy)
    return Classes(files, np.array(labels, dtype=np.int64), _names(folders), passed_over, changed)


def _empty_class(folder: str, passed_over: PassedOver) -> InputError:
    found = f" but {passed_over.in_words()}" if passed_over else ""
    remedy = passed_over.remedy() or "add images"
    return InputError(f"a class must hold an image, got none in {folder}{found}; {remedy} or remove the folder")


def _class_folders(root: Path) -> tuple[list[str], PassedOver]:
    if not root.is_dir():
        raise InputError(
            f"an image folder must hold {root.name}/<class>/<images>, got no folder {root}; "
            "put it there or pass another with --data-dir"
        )
    folders, passed_over = find_folders(root)
    before: dict[str, str] = {}
    for folder, name in zip(folders, _names(folders), strict=True):
        if not is_text(name):
            raise InputError(f"a class must have a name of plain text, got {folder!a}; rename the folder")
        if before.setdefault(name, folder) != folder:
            raise InputError(
                "classes must differ in more than Unicode form or whitespace at the ends of their names, got "
                f"{before[name]!a} and {folder!a}; rename one, or put their images into one folder"
            )
    return folders, passed_over


def _names(folders: Sequence[str]) -> tuple[str, ...]:
    return tuple(plain(os.path.basename(folder)) for folder in folders)


def _compared(class_names: tuple[str, ...], layout: Layout, others: tuple[str, ...], folder: Path) -> list[str]:
    """A note on the classes that a split lacks. Raises InputError if it has classes that train lacks."""
    _check_known(others, class_names, folder.name, folder, layout.train)
    lacking = extra(class_names, others)
    return [f"{folder} has no images of {quoted(lacking, others)}"] if lacking else []


def _check_known(
    others: tuple[str, ...], class_names: tuple[str, ...], split: str, place: object, train: object = TRAIN
) -> None:
    if unknown := extra(others, class_names):
        raise InputError(
            f"{split} must have no classes that train lacks, got {len(unknown)} of {len(others)} in {place}: "
            f"{quoted(unknown, class_names)}; add them to {train}, or remove them"
        )


def _below(root: Path, file: ImageFile) -> str:
    return file.name.removeprefix(os.path.join(root, ""))


def _encoded(text: str) -> bytes:
    return text.encode(errors="surrogateescape")
