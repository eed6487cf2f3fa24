"""Pack an image folder into a few large files, for disks and networks on which many small ones are slow.

    volo pack --data-dir data/photos --output data/photos-packed
    volo train --dataset imagefolder --data-dir data/photos-packed ...

Images are copied as they are, into tar files (shards) that webdataset can read too, with an index that opens at once.
Training on them gives the weights that training on the folder gives, and a run may go on with either.

    volo pack --data-dir data/photos --in-place

copies nothing: the folder gets an index of its own files, by which it opens at once too.
"""

import dataclasses
from collections.abc import Sequence

from volo.cli.parse import parse_flags, program
from volo.data.packed import IN_PLACE
from volo.errors import InputError
from volo.settings.paths import folder_to_read, folder_to_write

MEGABYTE, SHARD_MB = 10**6, 256


@dataclasses.dataclass(frozen=True)
class Flags:
    data_dir: str
    """An image folder: class folders, in train/, val/ and test/ or without, or webdataset's tars. It stays as it is."""
    output: str | None = None
    """The new folder."""
    in_place: bool = False
    """Write an index into --data-dir, and leave its files where they are. After a change, index it again."""
    shard_mb: int = SHARD_MB
    """A shard's size in megabytes."""


def main(argv: Sequence[str]) -> None:
    flags = parse_flags(Flags, argv, prog=program("pack"), description=__doc__)
    if flags.shard_mb < 1:
        raise InputError(f"--shard-mb must be at least 1, got {flags.shard_mb}; leave it out for {SHARD_MB}")
    if flags.in_place and (flags.output is not None or flags.shard_mb != SHARD_MB):
        raise InputError("--in-place writes no shards; drop --output and --shard-mb, or --in-place")
    data_dir = folder_to_read(flags.data_dir, "--data-dir")
    if flags.in_place:
        from volo.data.packed.indexing import index_in_place

        print(f"indexed {index_in_place(data_dir)}: {data_dir / IN_PLACE}", flush=True)
        return
    if flags.output is None:
        raise InputError("--output must name a new folder, got none; give it, or --in-place to copy nothing")
    output = folder_to_write(flags.output, "--output")
    from volo.data.packed.packing import pack

    packed = pack(data_dir, output, flags.shard_mb * MEGABYTE)
    print(f"packed {packed.in_words()}: {output}", flush=True)
