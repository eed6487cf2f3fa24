"""The index of images: one Arrow file with a row for each, opened by a memory map.

A row has the image's name, label and digest, and where in which shard its bytes are; or, of files that stay where they
are, its path and when it was last changed. The file's metadata have what is known of the whole, as JSON under the key
`volo`. Opening takes no listing, and no memory but the labels'.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]

from volo.data.contents import Item, text_of
from volo.data.folders.parts import DIGEST_BYTES, Part
from volo.data.packed import FILE
from volo.data.packed.shards import Shards, local_index
from volo.errors import InputError, first_of
from volo.settings.buckets import is_in_bucket

FORMAT = 1
METADATA = b"volo"
CHECKED = ("label", "shard", "offset", "length")  # in a shard, an image's own digest tells if the rest of it is right
SCHEMA = pa.schema(
    [
        ("name", pa.string()),
        ("label", pa.int32()),
        ("shard", pa.int32()),
        ("offset", pa.int64()),
        ("length", pa.int32()),
        ("digest", pa.binary(DIGEST_BYTES)),
        ("known", pa.string()),  # `Item.digest`
    ]
)
OF_FILES = pa.schema([*SCHEMA, ("path", pa.binary()), ("modified_ns", pa.int64())])


class Shard(NamedTuple):
    file: str
    num_bytes: int


@dataclass(frozen=True)
class PackedSplit:
    """The rows of `train`, whose last `num_val` are to validate on, or of `test`.

    Attributes:
        contents: `Contents.digest` of all of them.
    """

    num_images: int
    class_names: tuple[str, ...]
    contents: str
    num_val: int = 0


@dataclass(frozen=True)
class Index:
    """Rows of `train`, followed by those of `test` if there are any.

    Attributes:
        folder: Of the shards.
        splits: By name, in the order of their rows.
        is_split_here: The folder that was packed had class folders alone, which this project split.
        there: Of shards on object storage, which come into the folder.
        is_of_contents: Whether the digests are those of the images; otherwise each is of what its image depends on.
        found: What else was found when it was made.
    """

    folder: Path
    table: pa.Table
    splits: dict[str, PackedSplit]
    shards: tuple[Shard, ...]
    is_split_here: bool
    there: Shards | None = None
    is_of_contents: bool = True
    found: dict[str, Any] = field(default_factory=dict)

    def rows(self, split: str) -> tuple[int, int]:
        """The first row of a split and the one after its last."""
        before = list(self.splits)[: list(self.splits).index(split)]
        first = sum(self.splits[name].num_images for name in before)
        return first, first + self.splits[split].num_images

    def column(self, name: str, first: int, stop: int) -> np.ndarray:
        """(stop - first,) values of a column of numbers, in the memory map."""
        return self.table.column(name).slice(first, stop - first).to_numpy()

    def digests(self, first: int, stop: int, kind: np.dtype) -> np.ndarray:
        """(stop - first,) digests as numpy's `kind`, of DIGEST_BYTES each, in the memory map."""
        (chunk,) = self.table.column("digest").chunks
        content = np.frombuffer(chunk.buffers()[1], kind)
        return content[chunk.offset + first : chunk.offset + stop]

    def part(self, row: int) -> Part:
        """Where an image is."""
        found = {name: self.table.column(name)[row].as_py() for name in ("name", "shard", "offset", "length", "digest")}
        file = self.shards[found["shard"]].file
        address = self.there.address(file) if self.there else ""
        known = found["digest"] if self.is_of_contents else b""
        return Part(found["name"], str(self.folder / file), found["offset"], found["length"], known, address)

    def name(self, row: int) -> str:
        return self.table.column("name")[row].as_py()

    def text(self, first: int, stop: int) -> bytes:
        """The text of these rows' `Contents`."""
        part = self.table.slice(first, stop - first)
        columns = (part.column(name).to_pylist() for name in ("name", "length", "known"))
        return text_of(Item(*each) for each in zip(*columns, strict=True))


def write_index(
    path: Path,
    table: pa.Table,
    splits: dict[str, PackedSplit],
    shards: Sequence[Shard],
    is_split_here: bool,
    found: dict[str, Any] | None = None,
) -> None:
    """Writes the index of shards that lie in the same folder, or in one that `read_index` is told; without shards, of
    files."""
    table = table.cast(SCHEMA if shards else OF_FILES).combine_chunks()
    about = dict(
        format=FORMAT,
        splits={name: asdict(split) for name, split in splits.items()},
        shards=shards,
        is_split_here=is_split_here,
        found=found or {},
    )
    about["checksum"] = _checksum(table, about)
    table = table.replace_schema_metadata({METADATA: json.dumps(about)})
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=max(1, len(table)))


def read_index(place: str | Path, tars: Path | None = None, name: str = FILE) -> Index:
    """Opens an index, in a folder or on object storage.

    Args:
        tars: The folder of the shards, if it is another: tars of a user's, of whose images the digests are not known.
        name: Of the index.

    Raises:
        InputError: a damaged one, or shards that are not there as it describes them.
    """
    url = place if isinstance(place, str) and is_in_bucket(place) else ""
    folder = local_index(url) if url else Path(place)
    path = folder / name
    try:
        with pa.memory_map(str(path)) as file:
            table = pa.ipc.open_file(file).read_all()
        table.validate(full=True)  # what lies at a damaged offset may be no memory of this process
        about: dict[str, Any] = json.loads((table.schema.metadata or {})[METADATA])
        is_known = about["format"] == FORMAT
        if is_known and about["checksum"] != _checksum(table, about):
            raise ValueError("its checksum differs")
        splits = {name: _split(**split) for name, split in about["splits"].items()}
        shards = tuple(Shard(*shard) for shard in about["shards"])
        if tars is None and any(Path(shard.file).name != shard.file for shard in shards):
            raise ValueError("it names shards elsewhere")
        there = Shards(url, folder, shards) if url else None
        found = about.get("found", {})
        index = Index(tars or folder, table, splits, shards, about["is_split_here"], there, tars is None, found)
    except (OSError, pa.ArrowException, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"an index of packed images must be intact, got {path} ({error or type(error).__name__}); copy it again, "
            "or pack the folder again with volo pack"
        ) from None
    if not is_known:
        raise InputError(
            f"an index of packed images must have format {FORMAT}, got {about['format']} in {path}; pack the folder "
            "again with volo pack"
        )
    _check_shards(index)
    return index


def _split(class_names: list[str], **others: Any) -> PackedSplit:
    return PackedSplit(class_names=tuple(class_names), **others)


def _check_shards(index: Index) -> None:
    if index.there is None:
        wrong = [found for shard in index.shards if (found := _flaw(index.folder / shard.file, shard.num_bytes))]
        place = str(index.folder)
    else:
        sizes, place = index.there.sizes(), index.there.url
        wrong = [f"{file} ({sizes.get(file, 0):,} bytes, not {num_bytes:,})" for file, num_bytes in index.shards
                 if sizes.get(file) != num_bytes]  # fmt: skip
    if wrong:
        raise InputError(
            f"shards must be those that {place}/{FILE} describes, got {len(wrong)} of {len(index.shards)} that "
            f"differ: {first_of(wrong, 8)}; copy them again, or pack the folder again with volo pack"
        )


def _flaw(shard: Path, num_bytes: int) -> str:
    try:
        found = shard.stat().st_size
    except OSError as error:
        return f"{shard.name} ({error.strerror})"
    return f"{shard.name} ({found:,} bytes, not {num_bytes:,})" if found != num_bytes else ""


def _checksum(table: pa.Table, about: dict[str, Any]) -> str:
    """Of the numbers in all rows; of an index of files, of everything in it."""
    digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
    for name in CHECKED if about["shards"] else table.column_names:
        for part in _content(table.column(name)):
            digest.update(np.ascontiguousarray(part).data)
    if not about["shards"]:
        more = about | {"columns": table.column_names, "checksum": ""}
        digest.update(json.dumps(more, sort_keys=True).encode())
    return digest.hexdigest()


def _content(column: pa.ChunkedArray) -> Iterator[np.ndarray]:
    """The values of a column, however the memory around them is padded."""
    kind = column.type
    for chunk in column.chunks:
        if pa.types.is_string(kind) or pa.types.is_binary(kind):
            _, offsets, values = chunk.buffers()
            ends = np.frombuffer(offsets, np.int32, len(chunk) + 1, 4 * chunk.offset)
            yield ends - ends[0]
            yield np.frombuffer(values, np.uint8)[ends[0] : ends[-1]]
        elif pa.types.is_fixed_size_binary(kind):
            first, stop = (kind.byte_width * number for number in (chunk.offset, chunk.offset + len(chunk)))
            yield np.frombuffer(chunk.buffers()[1], np.uint8)[first:stop]
        else:
            yield chunk.to_numpy()
