"""Writes the index of what tars hold: the rows of train, with the images to validate on last, and those of test."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]

from volo.data.contents import Contents, Item
from volo.data.folders.class_names import extra, plain, quoted
from volo.data.folders.layout import TEST, TRAIN, in_test
from volo.data.folders.parts import DIGEST_BYTES, Part
from volo.data.folders.passed_over import PassedOver
from volo.data.folders.reading import digests
from volo.data.packed import FILE
from volo.data.packed.index import SCHEMA, PackedSplit, Shard, write_index
from volo.data.tars.layout import ALL, CLASSES, Tar, TarLayout
from volo.data.tars.rows import Naming, TarRow, rows_of
from volo.data.tars.samples import TarContents
from volo.errors import InputError

MIN_CLASSES = 2
REPEATED = "keys recur in several tars, so images are called by tar and key; if a tar is there twice, remove one"


class Division(NamedTuple):
    """Images of one split, those to validate on last."""

    rows: list[TarRow]
    class_names: tuple[str, ...]
    num_val: int = 0


def built(
    folder: Path,
    layout: TarLayout,
    tars: Sequence[tuple[str, Tar]],
    contents: Sequence[TarContents],
    passed_over: dict[str, PassedOver],
    class_names: tuple[str, ...],
) -> tuple[dict[str, int], list[str]]:
    """Writes an index into an empty folder; returns how many images each split of the layout has, and notes.

    Args:
        tars: All tars, with their splits.
        contents: Of each tar.
        passed_over: Of each split, for messages.
        class_names: The lines of `classes.txt`, if there is one.

    Raises:
        InputError: a split without images, or with classes that train lacks; fewer than two classes.
    """
    naming, rows, notes = Naming(class_names), dict[str, list[TarRow]](), []
    for split in layout.splits:
        of_split = {
            number: (tar.file, contents[number].images) for number, (name, tar) in enumerate(tars) if name == split
        }
        rows[split], is_repeated = rows_of(split, of_split, naming)
        notes += [REPEATED] if is_repeated and REPEATED not in notes else []
        if not rows[split]:
            raise _no_images(split, passed_over[split], layout)
    notes += _compared(rows, naming, layout)
    splits, tables = {}, []
    for name, division in _divided(rows, naming, layout.validation).items():
        table, digest = _table(division, layout.root, [tar for _, tar in tars], naming)
        splits[name] = PackedSplit(len(division.rows), division.class_names, digest, division.num_val)
        tables.append(table)
    shards = [Shard(tar.file, tar.size) for _, tar in tars]
    write_index(folder / FILE, pa.concat_tables(tables), splits, shards, ALL in rows)
    return {split: len(found) for split, found in rows.items()}, notes


def _no_images(split: str, passed_over: PassedOver, layout: TarLayout) -> InputError:
    found = f" but {passed_over.in_words()}" if passed_over else ""
    remedy = passed_over.remedy() or "make them with an image KEY.jpg and a label KEY.cls for each KEY"
    named = f"{split} tars" if split != ALL else "tars"
    return InputError(
        f"{named} must hold images with labels, got none in {len(layout.splits[split]):,} in {layout.root}{found}; "
        f"{remedy}, or unpack them into class folders"
    )


def _compared(rows: dict[str, list[TarRow]], naming: Naming, layout: TarLayout) -> list[str]:
    """Notes on classes that a split lacks. Raises InputError for classes that cannot be trained on."""
    train = next((split for split in (TRAIN, ALL) if split in rows), None)
    if train is None:  # tars to test on alone
        return []
    known = naming.all(rows[train])
    if lacking := extra(naming.lines, known):
        raise InputError(
            f"a class must hold an image, got none of {len(lacking):,} of the {len(naming.lines):,} in "
            f"{layout.root / CLASSES}: {quoted(lacking, known)}; add the tars that hold some, or remove {CLASSES}: "
            "then the numbers that occur are the classes"
        )
    if len(known) < MIN_CLASSES:
        raise InputError(
            f"a data set must have at least two classes, got {len(known)} in the tars of {layout.root}; add the tars "
            "that hold the others"
        )
    notes = []
    for split, found in rows.items():
        names = naming.all(found)
        if unknown := extra(names, known):
            raise InputError(
                f"{split} must have no classes that train lacks, got {len(unknown)} of {len(names)} in {layout.root}: "
                f"{quoted(unknown, known)}; add tars of train that hold them, or remove those of {split}"
            )
        if missing := extra(known, names):
            notes.append(f"the {split} tars in {layout.root} have no images of {quoted(missing, names)}")
    return notes


def _divided(rows: dict[str, list[TarRow]], naming: Naming, validation: str) -> dict[str, Division]:
    """By the names of splits of an image folder; tars that name no split are divided as class folders alone are."""
    if ALL in rows:
        every, class_names = rows[ALL], naming.all(rows[ALL])
        is_test = in_test([row.name for row in every], np.array([row.number for row in every]))
        parts = {name: [row for row, test in zip(every, is_test, strict=True) if test == (name == TEST)]
                 for name in (TRAIN, TEST)}  # fmt: skip
        return {name: Division(part, class_names) for name, part in parts.items() if part}
    divided = {}
    if TRAIN in rows:
        val = rows.get(validation, [])
        divided[TRAIN] = Division(rows[TRAIN] + val, naming.all(rows[TRAIN]), len(val))
    if TEST in rows:
        divided[TEST] = Division(rows[TEST], naming.all(rows[TEST]))
    return divided


def _table(division: Division, root: Path, tars: Sequence[Tar], naming: Naming) -> tuple[pa.Table, str]:
    """The rows of an index, and the digest of their `Contents`."""
    place = {name: label for label, name in enumerate(division.class_names)}
    paths = [str(root / tar.file) for tar in tars]
    parts = [
        Part("/".join(map(plain, row.name.split("/"))), paths[row.tar], row.offset, row.length, b"")
        for row in division.rows
    ]
    known = digests(parts, [part.name for part in parts])
    contents = Contents.of(Item(part.name, part.length, one) for part, one in zip(parts, known, strict=True))
    columns = [
        pa.array([part.name for part in parts]),
        pa.array([place[naming.of(row.number)] for row in division.rows], pa.int32()),
        pa.array([row.tar for row in division.rows], pa.int32()),
        pa.array([part.offset for part in parts], pa.int64()),
        pa.array([part.length for part in parts], pa.int32()),
        pa.array([_key(row, tars[row.tar]) for row in division.rows], pa.binary(DIGEST_BYTES)),
        pa.array(known),
    ]
    return pa.table(columns, names=SCHEMA.names), contents.digest


def _key(row: TarRow, tar: Tar) -> bytes:
    """Of what an image depends on: nobody can change a tar and keep the time of its change."""
    text = f"{tar.file}\0{tar.size}\0{tar.changed_ns}\0{row.offset}\0{row.length}"
    return hashlib.blake2b(text.encode(errors="surrogateescape"), digest_size=DIGEST_BYTES).digest()
