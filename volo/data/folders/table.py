"""A table of images and their classes: `<data_dir>/labels.csv`, for images that do not lie in class folders.

Its first line names the columns: `file`, a path below the folder; `class`; and, if the data are split already, `split`
(train, val or test). They are separated by commas, semicolons or tabs; other columns are left alone.
"""

import os
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from volo.data.folders.class_names import is_text, plain
from volo.data.folders.layout import TEST, TRAIN, VALIDATION
from volo.data.folders.listing import ImageFile
from volo.errors import InputError, brief, first_of
from volo.files import read_edited
from volo.tables import read_foreign_table

NAME = "labels.csv"
FILE, CLASS, SPLIT = "file", "class", "split"
VAL = VALIDATION[0]
SPLITS = {TRAIN: TRAIN, TEST: TEST, **dict.fromkeys(VALIDATION, VAL)}
SHOWN = 8


@dataclass(frozen=True)
class LabeledFile:
    """An image, its class, and its split; that is empty if the table has none."""

    file: ImageFile
    class_name: str
    split: str


def has_table(root: Path) -> bool:
    return (root / NAME).is_file()


def read_table(root: Path) -> list[LabeledFile]:
    """All rows, in the order of classes and then of files.

    Raises:
        InputError: columns that are missing, and all lines that are wrong: a file that is missing, named twice or
            outside the folder, a class without a name, an unknown split.
    """
    path = root / NAME
    try:
        lines = list(read_foreign_table(read_edited(path), (FILE, CLASS)))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} must be a table in UTF-8 of files and classes, got {error}; correct it") from None
    rows, wrong, seen = [], [], set[str]()
    for number, values in lines:
        flaw = _flaw(root, values, seen)
        if flaw:
            wrong.append(f"line {number}: {flaw}")
        else:
            seen.add(values[FILE])
            rows.append(_row(root, values))
    if wrong:
        raise InputError(
            f"each line of {path} must name a file below {root} and its class, got {len(wrong):,} that do not: "
            f"{first_of(wrong, SHOWN, '; ')}; correct or remove them"
        )
    return sorted(rows, key=lambda row: (row.class_name, row.file.name))


def _flaw(root: Path, values: dict[str, str], seen: set[str]) -> str:
    """What is wrong with a line; empty if nothing is."""
    file, class_name, split = (values.get(name, "") for name in (FILE, CLASS, SPLIT))
    if not file or "\0" in file:
        return "no file"
    if file.startswith("/") or ".." in PurePosixPath(file).parts:
        return f"{brief(file)} does not lie below the folder"
    if not os.path.isfile(root / file):
        return f"no file {brief(file)}"
    if file in seen:
        return f"{brief(file)} a second time"
    if not is_text(plain(class_name)):
        return f"{brief(class_name)} is no name of a class"
    if SPLIT in values and split.lower() not in SPLITS:
        return f"{SPLIT} {brief(split)} is none of {', '.join(SPLITS)}"
    return ""


def _row(root: Path, values: dict[str, str]) -> LabeledFile:
    name = os.path.join(root, values[FILE])
    stat = os.stat(name)
    file = ImageFile(name, stat.st_size, stat.st_ctime_ns)
    return LabeledFile(file, plain(values[CLASS]), SPLITS[values[SPLIT].lower()] if SPLIT in values else "")
