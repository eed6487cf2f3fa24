"""Makes the index of an image folder's own files, which stay where they are."""

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa  # type: ignore[import-untyped]

from volo.data.contents import Item
from volo.data.folders.imagefolder import ImageFolder
from volo.data.folders.layout import TEST, TRAIN, NoTestSplit
from volo.data.folders.parts import DIGEST_BYTES
from volo.data.packed import IN_PLACE, is_packed
from volo.data.packed.in_place import ROOT, entries_of
from volo.data.packed.index import PackedSplit, write_index
from volo.data.packed.packing import LISTED, check_storable
from volo.data.tars.layout import has_tars
from volo.errors import InputError
from volo.files import replaced


def index_in_place(data_dir: Path) -> str:
    """Lists an image folder and writes IN_PLACE into it. Returns what it holds, in words.

    Raises:
        InputError: as `ImageFolder`; packed images or tars; names that an index cannot hold; a folder that cannot be
            written.
    """
    if is_packed(data_dir) or has_tars(data_dir):
        raise InputError(
            f"--in-place indexes the files of an image folder, got {data_dir}, which holds large files with an index "
            "of their own; leave it as it is"
        )
    entries, sources = entries_of(data_dir), {TRAIN: ImageFolder(data_dir, TRAIN, LISTED)}
    root = sources[TRAIN].root
    with contextlib.suppress(NoTestSplit):
        sources[TEST] = ImageFolder(data_dir, TEST, LISTED)
    splits, tables, folders = {}, [], dict[str, int]()
    for name, source in sources.items():
        source.say_passed_over()
        contents = source.contents()
        check_storable(contents.items())
        num_val = 0 if source.held_out is None else len(source.held_out)
        splits[name] = PackedSplit(len(source.labels), source.class_names, contents.digest, num_val)
        tables.append(_table(source, contents.items()))
        folders |= source.folders
    found = {
        "entries": entries,
        "folders": [[os.path.relpath(path, root), ns] for path, ns in folders.items() if Path(path) != root],
        "splits": {name: _facts(source) for name, source in sources.items()},
    }
    try:
        with replaced(root / IN_PLACE) as partial:
            write_index(partial, pa.concat_tables(tables), splits, [], sources[TRAIN].is_split_here, found)
    except OSError as error:
        raise InputError(
            f"--in-place writes {data_dir / IN_PLACE}, got {error.strerror or error}; make the folder writable, or "
            "pack it into another with --output"
        ) from None
    num_images = sum(len(source.labels) for source in sources.values())
    return f"{num_images:,} images of {len(sources[TRAIN].class_names)} classes"


def _table(source: ImageFolder, items: Sequence[Item]) -> pa.Table:
    zeros, paths = pa.nulls(len(items), pa.int64()).fill_null(0), [source.name_of(n) for n in range(len(items))]
    return pa.table(
        {
            "name": pa.array([item.name for item in items]),
            "label": pa.array(source.labels),
            "shard": zeros,
            "offset": zeros,
            "length": pa.array(source.sizes()),
            "digest": pa.array([key.ljust(DIGEST_BYTES, b"\0") for key in source.keys().tolist()]),  # NumPy strips them
            "known": pa.array([item.digest for item in items]),
            "path": pa.array([os.fsencode(os.path.relpath(path, source.root)) for path in paths]),
            "modified_ns": pa.array([os.stat(path).st_mtime_ns for path in paths]),
        }
    )


def _facts(source: ImageFolder) -> dict[str, Any]:
    """What messages say of a split, whatever path leads to the folder."""

    def anywhere(text: str) -> str:
        return text.replace(str(source.root), ROOT)

    passed_over = [[why, kind.num_found, anywhere(kind.example)] for why, kind in source.passed_over.kinds.items()]
    said = [anywhere(note) for note in source.said]
    return dict(place=anywhere(source.place), num_listed=source.num_listed, passed_over=passed_over, said=said)
