"""An image that is part of a larger file."""

import hashlib
from pathlib import Path
from typing import NamedTuple

from volo.storage.ranges import read_range

DIGEST_BYTES = 16


class Part(NamedTuple):
    """The bytes of an image inside a shard.

    Attributes:
        name: The image's own, below the folder that it was packed from.
        shard: A file that holds many images.
        offset, length: In bytes.
        digest: blake2b of the image's bytes, DIGEST_BYTES long; empty if it is not known.
        address: Where the shard can be read as long as the file is not there; empty if it is.
    """

    name: str
    shard: str
    offset: int
    length: int
    digest: bytes
    address: str = ""

    def __str__(self) -> str:
        return f"{self.name} in {self.shard}"

    def read(self) -> bytes:
        """Raises OSError if the shard cannot be read, or holds other bytes there than the index says."""
        content = self.between(0, self.length)
        if self.digest and digest(content) != self.digest:
            raise OSError(f"{Path(self.shard).name} has other bytes there than its index says; pack the folder again")
        return content

    def between(self, start: int, stop: int) -> bytes:
        """These of its bytes. Raises OSError if the shard cannot be read, or ends before them."""
        content = self._content(self.offset + start, stop - start)
        if len(content) != stop - start:
            raise OSError(f"{Path(self.shard).name} ends before it; copy it again")
        return content

    def _content(self, offset: int, length: int) -> bytes:
        try:
            with open(self.shard, "rb", buffering=0) as file:
                file.seek(offset)
                return file.read(length)
        except FileNotFoundError:
            if not self.address:
                raise
        return read_range(self.address, offset, length)


def digest(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=DIGEST_BYTES).digest()
