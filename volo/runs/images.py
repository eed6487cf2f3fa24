"""Which images a run was trained on: `<run>/images.jsonl.gz`, a line for each (volo/data/contents.py).

A checkpoint holds the digest of these lines, so a record that is missing, damaged or of other images is not believed:
then images that differ are still refused, but cannot be named.
"""

import gzip
import zlib
from pathlib import Path

from volo.data.contents import Contents, Differences
from volo.errors import InputError
from volo.files import replace_synced
from volo.runs.places import IMAGES

GZIP = 31  # zlib's number for the format
LARGEST = 2**31  # bytes of a record that are read, which is some 20 million images


class OtherImages(InputError):
    """Images are not those that a run was trained on."""


def record(folder: Path, contents: Contents) -> None:
    """Writes the record, unless the folder has it. Raises OSError if it cannot be written."""
    if recorded(folder, contents.digest) is None:
        replace_synced(folder / IMAGES, gzip.compress(contents.text, compresslevel=1, mtime=0))


def recorded(folder: Path, digest: str) -> Contents | None:
    """The images of this digest; None if the folder has no intact record of them."""
    try:
        contents = Contents(zlib.decompressobj(GZIP).decompress((folder / IMAGES).read_bytes(), LARGEST))
    except (OSError, zlib.error):
        return None
    return contents if contents.digest == digest else None


def check_images(
    digest: str, contents: Contents, folder: Path | None, *, rule: str, place: str | Path | None, remedy: str
) -> None:
    """Compares images with those of `digest`, which is empty if a version before recorded none.

    Args:
        digest: Of the images that were trained on.
        contents: The images that are there now.
        folder: Of the run that has the record.
        rule: What must be the same, for the message.
        place: Where the images are.
        remedy: What to do if they differ.

    Raises:
        OtherImages: the images differ; the message counts them by kind and names the first few.
    """
    if digest not in ("", contents.digest):
        before = recorded(folder, digest) if folder else None
        found = Differences.between(before, contents).in_words() if before else _unnamed(folder)
        raise OtherImages(f"{rule}, got others{f' in {place}' if place else ''}: {found}; {remedy}")


def _unnamed(folder: Path | None) -> str:
    where = folder / IMAGES if folder else f"{IMAGES} of its run"
    return f"without {where}, intact, it cannot be said which"
