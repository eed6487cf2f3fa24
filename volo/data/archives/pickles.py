"""Reads the pickles that data sets are published in without running any of their code."""

import io
import pickle
from typing import Any

import numpy as np
from numpy._core.multiarray import _reconstruct

# The only names a pickle may use: those of a NumPy array. Containers, text and numbers need none.
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
            raise pickle.UnpicklingError(f"it calls {module}.{name}, which no data needs") from None


def load_plain(content: bytes) -> Any:
    """The dictionaries, lists, text, numbers and arrays in a pickle, which may be one of Python 2.

    Raises:
        ValueError: a pickle that refers to anything else, or a damaged one.
    """
    try:
        return _PlainUnpickler(io.BytesIO(content), encoding="latin1").load()
    except Exception as error:  # a damaged pickle can raise nearly anything
        raise ValueError(f"must be a pickle of plain containers and arrays ({error or type(error).__name__})") from None
