"""The model under torch.compile, where --compile asks for it: the same parameters, by faster code."""

import os
import shutil
import sys
from typing import cast

import torch
from torch import nn

from volo.errors import InputError

REMEDY = "install one (g++, with Python's headers), or leave --compile out"


def check_compiler(device: torch.device) -> None:
    """Raises InputError where torch.compile would find no compiler for the CPU. Cheap: looks for the program alone."""
    name = os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")
    if device.type == "cpu" and shutil.which(name) is None:
        raise InputError(f"--compile needs a C++ compiler on a CPU, got no {name}; {REMEDY}")


def compiled(model: nn.Module, device: torch.device) -> nn.Module:
    """A wrapper whose forward is compiled at its first call; `model` itself stays as it is.

    Raises:
        InputError: a trial with one operation fails, and why; so what fails later is not the compiler.
    """
    check_compiler(device)
    try:
        torch.compile(torch.exp)(torch.zeros(8, device=device))
    except Exception as error:  # of many kinds: the compiler's, the linker's, Triton's
        raise InputError(f"--compile needs a compiler that works on {device.type}, got {error}; {REMEDY}") from error
    return cast(nn.Module, torch.compile(model))  # declared as any callable
