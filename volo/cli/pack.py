"""Pack an image folder into a few large files, for disks and networks on which many small ones are slow.

    volo pack --data-dir data/photos --output data/photos-packed
    volo train --dataset imagefolder --data-dir data/photos-packed ...

Images are copied as they are, into tar files (shards) that webdataset can read too, with an index that opens at once.
Training on them gives the weights that training on the folder gives, and a run may go on with either.
"""

import dataclasses
from collections.abc import Sequence

from volo.cli.parse import parse_flags, program
from volo.errors import InputError
from volo.settings.paths import folder_to_read, folder_to_write

MEGABYTE = 10**6


@dataclasses.dataclass(frozen=True)
class Flags:
    data_dir: str
    """An image folder: class folders, in train/, val/ and test/ or without, or webdataset's tars. It stays as it is."""
    output: str
    """The new folder."""
    shard_mb: int = 256
    """A shard's size in megabytes."""


def main(argv: Sequence[str]) -> None:
    flags = parse_flags(Flags, argv, prog=program("pack"), description=__doc__)
    if flags.shard_mb < 1:
        raise InputError(f"--shard-mb must be at least 1, got {flags.shard_mb}; leave it out for 256")
    data_dir = folder_to_read(flags.data_dir, "--data-dir")
    output = folder_to_write(flags.output, "--output")
    from volo.data.packed.packing import pack

    packed = pack(data_dir, output, flags.shard_mb * MEGABYTE)
    print(f"packed {packed.in_words()}: {output}", flush=True)
