"""Pickles as data sets are published in, read without running anything of theirs."""

import io
import pickle
from typing import Any

import numpy as np
from numpy._core.multiarray import _reconstruct

# The only names a pickle may use: those of an array, as NumPy writes one. Containers, text and numbers have none.
ALLOWED = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
}


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return ALLOWED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it calls {module}.{name}, which no data need") from None


def load_plain(content: bytes) -> Any:
    """The dictionaries, lists, text, numbers and arrays in a pickle, one of Python 2 as well.

    Raises:
        ValueError: a pickle that names anything else, or a damaged one.
    """
    try:
        return _PlainUnpickler(io.BytesIO(content), encoding="latin1").load()
    except Exception as error:  # damage shows as nearly any exception
        raise ValueError(f"must be a pickle of plain containers and arrays ({error or type(error).__name__})") from None
