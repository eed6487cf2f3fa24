"""What a tar file holds, read from its headers alone, and whether it is whole.

Python's tarfile takes a damaged header, and the end of a file that is cut short, for the end of the tar; here both are
damage. Nothing is ever extracted, so no member can name a place outside.
"""

import os
import tarfile
from collections.abc import Iterator
from typing import BinaryIO

BLOCK = tarfile.BLOCKSIZE
AT_ONCE = 2**20  # bytes
MAGIC = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}


class DamagedTar(Exception):
    """A tar that cannot be read whole; the message says why."""


def members(file: BinaryIO) -> Iterator[tarfile.TarInfo]:
    """The members of a tar file, in order; between two of them the file may be read at any place.

    Raises:
        DamagedTar: one that is compressed, cut short, no tar, or sparse.
        OSError: as reading raises it.
    """
    size, position = file.seek(0, os.SEEK_END), 0
    tar = _opened(file)
    while not _is_end(file, position):
        file.seek(position)
        try:
            member = tarfile.TarInfo.fromtarfile(tar)
        except (tarfile.TarError, ValueError, RecursionError):
            raise DamagedTar(f"there is no member at byte {position:,}, where one must begin") from None
        if member.issparse():
            raise DamagedTar("it holds sparse files; make it again without --sparse")
        has_content = member.isreg() or member.type not in tarfile.SUPPORTED_TYPES
        end = member.offset_data + (member.size + -member.size % BLOCK if has_content else 0)
        if end <= position or member.size < 0:
            raise DamagedTar(f"the member at byte {position:,} has no length that can be")
        if member.offset_data + (member.size if has_content else 0) > size:
            raise DamagedTar(f"it is cut short within {member.name!a}")
        yield member
        position = end


def _opened(file: BinaryIO) -> tarfile.TarFile:
    file.seek(0)
    start = file.read(BLOCK)
    if not start:
        raise DamagedTar("it is empty")
    if kind := next((kind for magic, kind in MAGIC.items() if start.startswith(magic)), ""):
        raise DamagedTar(f"it is compressed with {kind}, but images are read at their places in it; decompress it")
    file.seek(0)
    try:
        return tarfile.TarFile(fileobj=file)
    except tarfile.TarError:
        raise DamagedTar("it is no tar file") from None


def _is_end(file: BinaryIO, position: int) -> bool:
    """Whether the mark of the end, blocks of zeros, is there, and nothing after it."""
    file.seek(position)
    block = file.read(BLOCK)
    if len(block) < BLOCK:
        raise DamagedTar("it is cut short: the mark of its end is missing")
    if any(block):
        return False
    while block := file.read(AT_ONCE):
        if block.strip(b"\0"):
            raise DamagedTar("it goes on after the mark of its end, as tars do that are joined; split it")
    return True
