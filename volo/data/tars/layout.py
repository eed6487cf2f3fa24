"""Which tar files of a folder are read, and of which split each is: `imagenet-train-000000.tar`, `train/000000.tar`, or
tars of any names, whose images this project splits."""

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from volo.data.folders.class_names import is_text
from volo.data.folders.layout import TEST, TRAIN, VALIDATION
from volo.data.folders.listing import FOLDER, find_entries
from volo.data.folders.passed_over import BESIDE, DEAD_LINK, NO_TEXT, PassedOver
from volo.errors import InputError, first_of

SUFFIX = ".tar"
CLASSES = "classes.txt"
COMPRESSED = re.compile(r"\.(tar\.[a-z0-9]+|tgz|tbz2?|txz|tzst|tlz)$", re.IGNORECASE)
SPLITS = (TRAIN, TEST, *VALIDATION)
WORDS = {"training": TRAIN, "testing": TEST} | {name: name for name in SPLITS}  # in the name of a tar
ALL = ""  # the split of tars none of which names one
SHOWN = 8


class Tar(NamedTuple):
    """A tar file by its path below the folder; `changed_ns` as of `ImageFile`."""

    file: str
    size: int
    changed_ns: int


@dataclass(frozen=True)
class TarLayout:
    """The tars of each split, sorted: train, test and the name of the validation split; or all as ALL.

    Attributes:
        unused: Tars that name no split, beside others that do.
        passed_over: What lies beside the tars.
    """

    root: Path
    splits: dict[str, list[Tar]]
    unused: tuple[str, ...]
    passed_over: PassedOver

    @property
    def validation(self) -> str:
        """The name of the split to validate on; empty if there is none."""
        return next((name for name in VALIDATION if name in self.splits), "")


def has_tars(root: Path) -> bool:
    """Whether a folder holds tar files, in it or in its train/, val/ and test/, and no class folders."""
    try:
        return any(reason == SUFFIX or _is_compressed(path, reason) for path, reason, _ in _entries(root))
    except InputError:  # said by whoever reads it as an image folder
        return False


def find_tars(root: Path) -> TarLayout:
    """Raises InputError for tars that are compressed or name two splits, two validation splits, and neither tars to
    train on nor any to test on."""
    splits: dict[str, list[Tar]] = {}
    passed_over, compressed, named_twice = PassedOver(), [], []
    for path, reason, folder in _entries(root):
        file = os.path.relpath(path, root)
        if _is_compressed(path, reason):
            compressed.append(file)
        elif not is_text(file):
            passed_over.note(NO_TEXT, file)
        elif reason == SUFFIX and (tar := _tar(path, file)):
            found = {folder} if folder else _named(file)
            if len(found) > 1:
                named_twice.append(file)
            splits.setdefault(next(iter(found), ALL), []).append(tar)
        elif file != CLASSES:
            passed_over.note(DEAD_LINK if reason == SUFFIX else reason or BESIDE, file)
    _refuse(compressed, "tar files must be uncompressed, since images are read at their places in them", "decompress "
            "them, with gunzip or the like", root)  # fmt: skip
    _refuse(named_twice, "the name of a tar file must hold the name of one split", "rename them", root)
    _check_validation([name for name in VALIDATION if name in splits], root)
    unused = [tar.file for tar in splits.pop(ALL)] if ALL in splits and len(splits) > 1 else []
    if not {TRAIN, TEST, ALL} & splits.keys():
        raise nothing_to_train_on(root, splits)
    return TarLayout(root, splits, tuple(unused), passed_over)


def nothing_to_train_on(root: Path, splits: Iterable[str]) -> InputError:
    return InputError(
        f"tar files to train on must have {TRAIN} in their names, or lie in {TRAIN}/, got those of "
        f"{' and '.join(splits)} alone in {root}; rename or add them"
    )


def _refuse(files: Sequence[str], rule: str, remedy: str, root: Path) -> None:
    if files:
        found = f"{len(files):,} that {'do' if len(files) > 1 else 'does'} not"
        raise InputError(f"{rule}, got {found} in {root}: {first_of(files, SHOWN)}; {remedy}")


def _check_validation(found: Sequence[str], root: Path) -> None:
    if len(found) > 1:
        raise InputError(
            f"tar files must have one validation split, got {' and '.join(found)} in {root}; remove or rename all but "
            "one"
        )


def _named(file: str) -> set[str]:
    """The splits that are words of a tar's name; digits and punctuation separate words."""
    words = re.findall("[a-z]+", file.lower().removesuffix(SUFFIX))
    return {WORDS[word] for word in words if word in WORDS}


def _is_compressed(path: str, reason: str) -> bool:
    return reason.startswith(".") and COMPRESSED.search(path) is not None


def _tar(path: str, file: str) -> Tar | None:
    try:
        stat = os.stat(path)
    except OSError:  # removed a moment ago
        return None
    return Tar(file, stat.st_size, stat.st_ctime_ns)


def _entries(root: Path) -> list[tuple[str, str, str]]:
    """Path, reason (as of `find_entries`) and split folder of all that lies in a folder and in its split folders; none
    if one of them has other folders."""
    if not root.is_dir():
        return []
    found = []
    for path, reason in find_entries(root):
        if reason != FOLDER:
            found.append((path, reason, ""))
            continue
        below = find_entries(path) if (name := os.path.basename(path)) in SPLITS else [("", FOLDER)]
        if any(reason == FOLDER for _, reason in below):
            return []
        found += [(path, reason, name) for path, reason in below]
    return found
