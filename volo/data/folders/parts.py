"""An image that is part of a larger file."""

import hashlib
from pathlib import Path
from typing import NamedTuple

DIGEST_BYTES = 16


class Part(NamedTuple):
    """The bytes of an image inside a shard.

    Attributes:
        name: The image's own, below the folder that it was packed from.
        shard: A file that holds many images.
        offset, length: In bytes.
        digest: blake2b of the image's bytes, DIGEST_BYTES long.
    """

    name: str
    shard: str
    offset: int
    length: int
    digest: bytes

    def __str__(self) -> str:
        return f"{self.name} in {self.shard}"

    def read(self) -> bytes:
        """Raises OSError if the shard cannot be read, or holds other bytes there than the index says."""
        with open(self.shard, "rb", buffering=0) as file:
            file.seek(self.offset)
            content = file.read(self.length)
        if digest(content) != self.digest:
            raise OSError(f"{Path(self.shard).name} has other bytes there than its index says; pack the folder again")
        return content


def digest(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=DIGEST_BYTES).digest()
