"""The class of an image in a tar: `KEY.cls`, else `label`, `class` or `cls` of `KEY.json`, else `KEY.txt`.

A label is the number of a class, or its name if `classes.txt` beside the tars has a line for each.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path

from volo.data.folders.class_names import is_text, plain
from volo.data.tars.layout import CLASSES
from volo.errors import InputError, brief, first_of
from volo.files import read_edited

KINDS = ("cls", "json", "txt")  # the first one that a sample has counts
FIELDS = ("label", "class", "cls")
NUMBER = re.compile(r"-?[0-9]{1,18}")
MOST_BYTES = 2**20  # of a member with a label
SHOWN = 8

Label = int | str


def read_classes(root: Path) -> tuple[str, ...]:
    """The names in `classes.txt`, in its order; none without that file.

    Raises:
        InputError: a file that is no text, and all lines that are no name, or one that another line has.
    """
    path = root / CLASSES
    try:
        lines = read_edited(path).rstrip().split("\n") if path.exists() else []
    except (OSError, ValueError) as error:
        raise InputError(f"{path} must be a text in UTF-8, a class in each line, got {error}; correct it") from None
    names, wrong = [plain(line) for line in lines], []
    for number, name in enumerate(names):
        if not is_text(name):
            wrong.append(f"line {number + 1}: {brief(name)} is no name of a class")
        elif name in names[:number]:
            wrong.append(f"line {number + 1}: {brief(name)} a second time")
    if wrong:
        raise InputError(f"{path} must have another class in each line, got {first_of(wrong, SHOWN, '; ')}; correct it")
    return tuple(names)


def label_in(kind: str, content: bytes) -> Label | None:
    """The label in a member of one of KINDS; None for a JSON object without any of FIELDS.

    Raises:
        ValueError: no label; the message says why.
    """
    try:
        text = content.decode("utf-8-sig")
        found = _field(json.loads(text)) if kind == "json" else text
    except (UnicodeDecodeError, RecursionError, json.JSONDecodeError):
        raise ValueError(f"no {'JSON' if kind == 'json' else 'text'} in UTF-8") from None
    if isinstance(found, int) or found is None:
        return found
    name = plain(found)
    if not name:
        raise ValueError("an empty label")
    return int(name) if NUMBER.fullmatch(name) else name


def _field(record: object) -> Label | None:
    if not isinstance(record, dict):
        raise ValueError("no JSON object")
    found = next((record[field] for field in FIELDS if field in record), None)
    if isinstance(found, bool) or not isinstance(found, int | str | None):
        raise ValueError(f"label {brief(found)}")
    return found


def number_of(label: Label, class_names: Sequence[str], known: dict[str, int]) -> int:
    """The number of a class.

    Args:
        class_names: The lines of `classes.txt`, if there is one.
        known: Their numbers by name.

    Raises:
        ValueError: no class; the message says why.
    """
    if isinstance(label, str):
        if label not in known:
            raise ValueError(f"{brief(label)} is {'no line of ' + CLASSES if known else 'no number'}")
        return known[label]
    most = len(class_names) - 1 if class_names else 10**18
    if not 0 <= label <= most:
        raise ValueError(f"{brief(label)} is not in 0 to {most:,}")
    return label
