"""The samples of a tar: members of one key, which is a name up to the first dot after its folders, as in webdataset.

`cat/0001.jpg` and `cat/0001.cls` are an image and its label. The members of a key may lie apart. Whatever else a tar
holds is passed over, and counted.
"""

import tarfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, NamedTuple

from volo.data.folders.class_names import is_text
from volo.data.folders.formats import readable_suffixes
from volo.data.folders.listing import is_systems, suffix_of
from volo.data.folders.passed_over import (
    DOTTED,
    HIDDEN,
    LINK,
    NO_IMAGE,
    NO_SUFFIX,
    NO_TEXT,
    OUTSIDE,
    SPECIAL,
    UNLABELED,
    PassedOver,
)
from volo.data.tars.labels import KINDS, MOST_BYTES, Label, label_in, number_of
from volo.data.tars.members import members

MOST_IMAGE_BYTES = 2**31 - 1  # what an index holds


class TarImage(NamedTuple):
    """An image by its member's name; offset and length in bytes, and the number of its class."""

    name: str
    offset: int
    length: int
    number: int


@dataclass
class TarContents:
    """What one tar holds.

    Attributes:
        repeated: Members that repeat the image or the label of a key.
        mislabeled: Keys whose label is no class, and why.
    """

    images: list[TarImage] = field(default_factory=list)
    repeated: list[str] = field(default_factory=list)
    mislabeled: list[str] = field(default_factory=list)
    passed_over: PassedOver = field(default_factory=PassedOver)


@dataclass(slots=True)
class _Sample:
    image: tuple[str, int, int] | None = None  # as of TarImage
    labels: dict[str, Label | ValueError | None] | None = None  # by KINDS


def read_samples(path: Path, shown: str, class_names: tuple[str, ...], beat: Callable[[int], None]) -> TarContents:
    """Reads the headers of a tar, and its labels.

    Args:
        shown: The tar's name in messages.
        class_names: The lines of `classes.txt`, if there is one.
        beat: Called with the place in the file that has been reached.

    Raises:
        DamagedTar, OSError: as `members`.
    """
    found, samples = TarContents(), dict[str, _Sample]()
    with open(path, "rb") as file:
        for member in members(file):
            beat(member.offset)
            name = member.name.removeprefix("./")
            if reason := _reason(member, name):
                found.passed_over.note(reason, f"{shown}: {name}")
            elif not member.isdir() and not any(map(is_systems, name.split("/"))):
                _take(file, member, name, samples, found, shown)
    known = {name: number for number, name in enumerate(class_names)}
    for key, sample in samples.items():
        _finish(key, sample, class_names, known, found, shown)
    return found


def _reason(member: tarfile.TarInfo, name: str) -> str:
    """Why a member is passed over, other than for its suffix; empty otherwise."""
    parts = name.split("/")
    if name.startswith("/") or ".." in parts:
        return OUTSIDE
    if member.isdir():
        return ""
    if member.issym() or member.islnk():
        return LINK
    if not member.isreg():
        return SPECIAL
    if not is_text(name):
        return NO_TEXT
    is_hidden = any(part.startswith(".") and not is_systems(part) for part in parts)
    return HIDDEN if is_hidden else ""


def _take(
    file: BinaryIO, member: tarfile.TarInfo, name: str, samples: dict[str, _Sample], found: TarContents, shown: str
) -> None:
    """Adds a member to its sample, or notes why it is passed over."""
    folder, slash, last = name.rpartition("/")
    stem, _, kind = last.partition(".")
    key, kind = folder + slash + stem, kind.lower()
    is_image = f".{kind}" in readable_suffixes()
    if not (is_image or kind in KINDS):
        suffix = suffix_of(last)
        is_dotted = "." in kind and suffix in readable_suffixes()
        found.passed_over.note(DOTTED if is_dotted else suffix or NO_SUFFIX, f"{shown}: {name}")
        return
    sample = samples.setdefault(key, _Sample())
    if kind in (sample.labels or ()) or (is_image and sample.image):
        found.repeated.append(f"{name} in {shown}")
    elif is_image:
        sample.image = (name, member.offset_data, member.size)
    else:
        sample.labels = sample.labels or {}
        sample.labels[kind] = _label(file, member, kind)


def _label(file: BinaryIO, member: tarfile.TarInfo, kind: str) -> Label | ValueError | None:
    """A label, none, or why it is none."""
    try:
        if member.size > MOST_BYTES:
            raise ValueError(f"{member.size:,} bytes of {kind}")
        file.seek(member.offset_data)
        return label_in(kind, file.read(member.size))
    except ValueError as error:
        return error


def _finish(
    key: str, sample: _Sample, class_names: tuple[str, ...], known: dict[str, int], found: TarContents, shown: str
) -> None:
    """Adds the image of a sample that has one, and a label."""
    labels = sample.labels or {}
    label = next((labels[kind] for kind in KINDS if labels.get(kind) is not None), None)
    if sample.image is None:
        found.passed_over.note(NO_IMAGE, f"{shown}: {key}")
    elif label is None:
        found.passed_over.note(UNLABELED, f"{shown}: {sample.image[0]}")
    else:
        try:
            if isinstance(label, ValueError):
                raise label
            if sample.image[2] > MOST_IMAGE_BYTES:
                raise ValueError(f"an image of {sample.image[2]:,} bytes")
            found.images.append(TarImage(*sample.image, number_of(label, class_names, known)))
        except ValueError as error:
            found.mislabeled.append(f"{key} in {shown} ({error})")
