"""torch.compile for the model, with `--compile`: the same parameters, faster code."""

import os
import shutil
import sys
from typing import cast

import torch
from torch import nn

from volo.errors import InputError

REMEDY = "install one (g++, with Python's headers), or omit --compile"


def check_compiler(device: torch.device) -> None:
    """Raises InputError if torch.compile would find no C++ compiler for the CPU. Only looks for the program."""
    name = os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")
    if device.type == "cpu" and shutil.which(name) is None:
        raise InputError(f"--compile needs a C++ compiler on a CPU, got no {name}; {REMEDY}")


def compiled(model: nn.Module, device: torch.device) -> nn.Module:
    """A wrapper of the model, compiled on its first call; `model` itself is unchanged.

    Raises:
        InputError: compiling a single operation fails, which tells a broken compiler from a later error.
    """
    check_compiler(device)
    try:
        torch.compile(torch.exp)(torch.zeros(8, device=device))
    except Exception as error:  # from the compiler, the linker, or Triton
        raise InputError(f"--compile needs a compiler that works on {device.type}, got {error}; {REMEDY}") from error
    return cast(nn.Module, torch.compile(model))  # declared as any callable
