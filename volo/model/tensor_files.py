"""Files of `torch.save`, read without running code and without taking more memory than they have bytes."""

import mmap
import os
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

# The one function that PyTorch lets a file call which allocates as much as the file says.
BYTEARRAYS = (b"c__builtin__\nbytearray\n", b"cbuiltins\nbytearray\n")

ARCHIVE = b"PK\x03\x04"  # how a file in PyTorch's present format begins
MAX_SHARING = 4  # tied weights share their bytes


def load_values(path: Path, harmless: Iterable[type] = (), is_mapped: bool = False) -> Any:
    """Tensors, on the CPU, and plain values.

    Args:
        path: The file.
        harmless: Classes that may stand in it besides tensors and plain values.
        is_mapped: Leave the tensors in the file, which must have been saved in PyTorch's present format.

    Raises:
        ValueError: a file that would take more memory than it has bytes. PyTorch raises many kinds of errors for other
            files that are foreign or damaged.
    """
    check_stored(path)
    with torch.serialization.safe_globals(list(harmless)):
        values = torch.load(path, map_location="cpu", weights_only=True, mmap=is_mapped)
    _check_backed(list(_tensors(values)))
    return values


def check_stored(path: Path) -> None:
    """Raises ValueError for a file that grows when it is read: compressed, one part of it named many times, or with a
    call that allocates."""
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        if any(content.find(name) >= 0 for name in BYTEARRAYS):
            raise ValueError("it holds a bytearray")
        is_archive = content[: len(ARCHIVE)] == ARCHIVE
    if is_archive:
        _check_entries(path)


def _check_entries(path: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except zipfile.BadZipFile as error:
        raise ValueError(str(error)) from None
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise ValueError("its content is compressed")
    if sum(entry.file_size for entry in entries) > os.path.getsize(path):
        raise ValueError("its entries overlap")


def _tensors(values: Any) -> Iterator[Tensor]:
    """Those of nested dictionaries, lists and tuples; each container once, however often it is referred to."""
    seen: set[int] = set()
    waiting = [values]
    while waiting:
        value = waiting.pop()
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, dict | list | tuple) and id(value) not in seen:
            seen.add(id(value))
            waiting.extend(value.values() if isinstance(value, dict) else value)


def _check_backed(tensors: list[Tensor]) -> None:
    """Raises ValueError for tensors that say they are larger than the bytes they share, such as one number that is
    repeated: a copy of them would be as large as they say."""
    if any(tensor.layout != torch.strided or tensor.is_meta or tensor.is_quantized for tensor in tensors):
        raise ValueError("its tensors must be dense")
    unique = {id(tensor): tensor for tensor in tensors}.values()
    stored = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in unique}
    if sum(tensor.nbytes for tensor in unique) > MAX_SHARING * sum(stored.values()):
        raise ValueError("its tensors say that they are larger than they are")
