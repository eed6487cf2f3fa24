"""Packs an image folder, or tars: the files as they are in a few large tar files, the shards, and an index of them.

Shards are read by position, and also by what reads webdataset's tar files: each image is followed by a `.cls` file
with the number of its class. Their order is drawn, so that reading a shard from its beginning mixes the classes.
"""

import contextlib
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]
from filelock import Timeout

from volo.console import Progress, format_bytes
from volo.data.contents import Contents, Item
from volo.data.folders.class_names import places
from volo.data.folders.damage import Damage, DamagedImages
from volo.data.folders.encoded import EncodedImages
from volo.data.folders.layout import TEST, TRAIN, NoTestSplit
from volo.data.folders.parts import DIGEST_BYTES, Part, digest
from volo.data.opening import open_folder
from volo.data.packed import FILE, is_packed
from volo.data.packed.index import SCHEMA, PackedSplit, Shard, write_index
from volo.errors import InputError, first_of
from volo.files import commit, free_bytes, staging
from volo.locks import LOOK_S, take

BLOCK = tarfile.BLOCKSIZE  # a header, and what contents are padded to
OVERHEAD = 1.02  # of what is written over the images' bytes, beyond BLOCKS
BLOCKS = 4 * BLOCK  # beside an image: two headers, a class, and padding
ORDER_SEED = 0
MOST_BYTES = 2**31 - 1  # of an image
SHOWN = 8
LISTED = 64  # image_size of a source that decodes nothing


@dataclass(frozen=True)
class Packed:
    """What was written."""

    num_images: int
    num_classes: int
    num_shards: int
    image_bytes: int
    written_bytes: int

    def in_words(self) -> str:
        more = self.written_bytes / max(1, self.image_bytes) - 1
        return (
            f"{self.num_images:,} images of {self.num_classes} classes in {self.num_shards} shards, "
            f"{format_bytes(self.written_bytes)}, {more:.1%} more than the files"
        )


def pack(data_dir: Path, output: Path, shard_bytes: int) -> Packed:
    """Packs the splits of an image folder, or of tars.

    Args:
        data_dir: An image folder, or one of tars, which stays as it is.
        output: Must not exist yet, or be empty.
        shard_bytes: A shard ends with the image that reaches it.

    Raises:
        InputError: as `open_folder`; no room; an output that holds something; images that an index cannot hold.
        DamagedImages: files that cannot be read, all of them; nothing is left of the output.
    """
    if is_packed(data_dir):
        raise InputError(f"--data-dir must be an image folder, got {data_dir}, which is packed already; copy it")
    check_output(output)
    sources = {TRAIN: open_folder(data_dir, TRAIN, LISTED)}
    with contextlib.suppress(NoTestSplit):
        sources[TEST] = open_folder(data_dir, TEST, LISTED)
    for source in sources.values():
        source.say_passed_over()
    _check_room(sources, output)
    contents = {name: source.contents() for name, source in sources.items()}
    check_storable(item for of_split in contents.values() for item in of_split.items())
    output.parent.mkdir(parents=True, exist_ok=True)
    with _alone(output), staging(output) as folder:
        packed = _written(folder, sources, contents, shard_bytes)
        commit(folder, output)
    return packed


def check_output(output: Path) -> None:
    """Raises InputError for a folder that holds something."""
    if output.is_dir() and any(output.iterdir()):
        kind = "packed images" if is_packed(output) else "other files"
        raise InputError(f"--output must be a new or an empty folder, got {output} with {kind}; name another")


@contextlib.contextmanager
def _alone(output: Path) -> Iterator[None]:
    """Raises InputError if another process packs into the same folder."""
    path = output.with_name(f".{output.name}.lock")
    try:
        lock = take(path, LOOK_S, "name a folder on another disk")
    except Timeout:
        raise InputError(f"{output} is being packed by another process; wait for it, or name another") from None
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        lock.release()


def check_storable(items: Iterable[Item]) -> None:
    """Raises InputError for names and sizes that an index cannot hold."""
    wrong = []
    for item in items:
        if item.name != item.name.encode(errors="replace").decode():
            wrong.append(f"{item.name!a} (no text)")
        elif item.size > MOST_BYTES:
            wrong.append(f"{item.name} ({item.size:,} bytes)")
    if wrong:
        raise InputError(
            f"indexed images must have names of text and at most {MOST_BYTES:,} bytes, got {len(wrong):,} others: "
            f"{first_of(wrong, SHOWN)}; rename or remove them"
        )


def _check_room(sources: dict[str, EncodedImages], output: Path) -> None:
    sizes = np.concatenate([source.sizes() for source in sources.values()])
    needed, free = int(OVERHEAD * (sizes.sum() + BLOCKS * len(sizes))), free_bytes(output)
    if needed > free:
        raise InputError(
            f"--output must have room for the shards, got {format_bytes(free)} free at {output} where up to "
            f"{format_bytes(needed)} are needed; name a folder on another disk"
        )


def _written(
    folder: Path, sources: dict[str, EncodedImages], contents: dict[str, Contents], shard_bytes: int
) -> Packed:
    """Writes shards and index into an empty folder."""
    writing, splits = _Writing(folder, shard_bytes), {}
    total = sum(len(source.labels) for source in sources.values())
    with Progress("packing", total, "images") as progress:
        for name, source in sources.items():
            num_val = 0 if source.held_out is None else len(source.held_out)
            splits[name] = PackedSplit(len(source.labels), source.class_names, contents[name].digest, num_val)
            numbers = places(source.class_names, sources[TRAIN].class_names)
            writing.add(name, source, contents[name].items(), numbers, progress)
    if writing.damaged:
        raise DamagedImages(writing.damaged, total, None)
    table = pa.concat_tables(writing.tables)
    write_index(folder / FILE, table, splits, writing.shards, sources[TRAIN].is_split_here)
    return Packed(
        total,
        len(sources[TRAIN].class_names),
        len(writing.shards),
        int(sum(source.sizes().sum() for source in sources.values())),
        sum(shard.num_bytes for shard in writing.shards) + (folder / FILE).stat().st_size,
    )


@dataclass
class _Writing:
    """The shards and rows written so far."""

    folder: Path
    shard_bytes: int
    shards: list[Shard] = field(default_factory=list)
    tables: list[pa.Table] = field(default_factory=list)
    damaged: list[Damage] = field(default_factory=list)
    num_done: int = 0

    def add(
        self, split: str, source: EncodedImages, items: Sequence[Item], numbers: Sequence[int], progress: Progress
    ) -> None:
        """Writes the images of a split in a drawn order, those to validate on in shards of their own; `numbers` are
        those of its classes among the classes of train."""
        total, sizes = len(source.labels), source.sizes()
        num_train = total if source.held_out is None else total - len(source.held_out)
        found = np.zeros(total, [("shard", np.int32), ("offset", np.int64)])
        digests = [b""] * total
        for name, first, stop in ((split, 0, num_train), ("val", num_train, total)):
            order = first + np.random.Generator(np.random.Philox(ORDER_SEED)).permutation(stop - first)
            for number, shard, offset, content in self._stored(name, source, sizes, order, numbers):
                found[number], digests[number] = (shard, offset), digest(content)
                self.num_done += 1
                progress.update(self.num_done)
        self.tables.append(
            pa.table(
                [
                    pa.array([item.name for item in items]),
                    pa.array(source.labels, pa.int32()),
                    pa.array(found["shard"].copy()),
                    pa.array(found["offset"].copy()),
                    pa.array(sizes, pa.int32()),
                    pa.array([one or bytes(DIGEST_BYTES) for one in digests], pa.binary(DIGEST_BYTES)),
                    pa.array([item.digest for item in items]),
                ],
                names=SCHEMA.names,
            )
        )

    def _stored(
        self, name: str, source: EncodedImages, sizes: np.ndarray, order: np.ndarray, numbers: Sequence[int]
    ) -> Iterator[tuple[int, int, int, bytes]]:
        """Writes the images of these numbers; yields each number, its shard and offset, and the image's bytes."""
        remaining = iter(order.tolist())
        number = next(remaining, None)
        for shard in count():
            if number is None:
                return
            path = self.folder / f"{name}-{shard:06}.tar"
            with open(path, "wb") as file:
                while number is not None and file.tell() < self.shard_bytes:
                    if content := self._content(number, source, sizes[number]):
                        offset = _append(file, f"{number:09}{_suffix(source.file_of(number))}", content)
                        _append(file, f"{number:09}.cls", str(numbers[source.labels[number]]).encode())
                        yield number, len(self.shards), offset, content
                    number = next(remaining, None)
                file.write(bytes(2 * BLOCK))
                self.shards.append(Shard(path.name, file.tell()))

    def _content(self, number: int, source: EncodedImages, size: int) -> bytes:
        """Empty, and noted, if the file cannot be read or is not what was listed."""
        file = source.file_of(number)
        try:
            content = file.read() if isinstance(file, Part) else Path(file).read_bytes()
            reason = "" if len(content) == size else f"{len(content):,} bytes, {size:,} when listed"
            reason = reason if content else "an empty file"
        except OSError as error:
            content, reason = b"", str(error.strerror or error)
        if reason:
            self.damaged.append(Damage(number, source.name_of(number), reason))
        return b"" if reason else content


def _suffix(file: str | Part) -> str:
    return Path(file.name if isinstance(file, Part) else file).suffix.lower()


def _append(file: BinaryIO, name: str, content: bytes) -> int:
    """Appends a member to a tar file and returns the offset of its content."""
    header = tarfile.TarInfo(name)
    header.size = len(content)
    file.write(header.tobuf(tarfile.USTAR_FORMAT))
    offset = file.tell()
    file.write(content)
    file.write(bytes(-len(content) % BLOCK))
    return offset
