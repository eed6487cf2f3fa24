"""Digests of image files: of every file as a whole where that is cheap, otherwise of parts of some.

At most WHOLE_FILES files of at most WHOLE_BYTES together are read whole, which takes a second or a few. Of more or
larger ones, the first and last EDGE bytes of PART_FILES files are read, which a hash of their names chooses. With
other numbers here, runs of large data sets would not know their images again.
"""

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from volo.data.folders.listing import ImageFile
from volo.data.folders.parts import Part

WHOLE_FILES, WHOLE_BYTES = 100_000, 2**30
PART_FILES, EDGE = 20_000, 2**16
WHOLE, PART = "whole", "part"  # how a file was read; the digest follows a colon
UNREADABLE = "unreadable"
TOGETHER = 64  # files that a thread reads one after the other


Stored = ImageFile | Part


def digests(files: Sequence[Stored], names: Sequence[str]) -> list[str]:
    """The digest of each file's content, empty for those that are not read.

    Args:
        files: Which files, or parts of files, with their sizes.
        names: Their paths below the data folder: the same files are read wherever the folder lies.
    """
    is_whole = len(files) <= WHOLE_FILES and sum(map(_size, files)) <= WHOLE_BYTES
    chosen = list(range(len(files))) if is_whole else _chosen(names)
    parts = [chosen[start : start + TOGETHER] for start in range(0, len(chosen), TOGETHER)]
    found = [""] * len(files)
    with ThreadPoolExecutor() as pool:
        read = pool.map(lambda part: [_digest(files[number], is_whole) for number in part], parts)
        for part, part_digests in zip(parts, read, strict=True):
            for number, digest in zip(part, part_digests, strict=True):
                found[number] = digest
    return found


def _chosen(names: Sequence[str]) -> list[int]:
    """The numbers of PART_FILES names, ascending."""
    shares = [hashlib.blake2b(name.encode(errors="surrogateescape"), digest_size=8).digest() for name in names]
    return sorted(sorted(range(len(names)), key=shares.__getitem__)[:PART_FILES])


def _size(file: Stored) -> int:
    return file.length if isinstance(file, Part) else file.size


def _digest(file: Stored, is_whole: bool) -> str:
    is_whole = is_whole or _size(file) <= 2 * EDGE
    way = WHOLE if is_whole else PART
    try:
        content = _whole(file) if is_whole else _edges(file)
    except OSError:
        return f"{way}:{UNREADABLE}"
    return f"{way}:{hashlib.blake2b(content, digest_size=16).hexdigest()}"


def _whole(stored: Stored) -> bytes:
    if isinstance(stored, Part):
        return stored.between(0, stored.length)
    with open(stored.name, "rb", buffering=0) as file:
        return file.read()


def _edges(stored: Stored) -> bytes:
    if isinstance(stored, Part):
        return stored.between(0, EDGE) + stored.between(stored.length - EDGE, stored.length)
    with open(stored.name, "rb", buffering=0) as file:
        start = file.read(EDGE)
        file.seek(-EDGE, os.SEEK_END)
        return start + file.read(EDGE)
