"""Softmax and aggregation in one compiled kernel for CPUs, forward and backward, with no copy per window.

Numba compiles it on first use, and keeps it on disk: beside this file, or where that is read-only in the user's cache
folder (NUMBA_CACHE_DIR overrides both). The kernels are C functions here, which PyTorch's own OpenMP threads run: Numba
starts no threads, so torch.set_num_threads and OMP_NUM_THREADS hold, and nothing competes with PyTorch for the cores.
Images are independent tasks, so a result has the same bits with any number of threads. As with PyTorch's own operators,
a process forked after the first call should not call it: OpenMP's threads do not survive a fork.
"""

import contextlib
import ctypes
import logging
import os
import tempfile
import threading
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec

import numpy as np
import torch
from filelock import FileLock, Timeout
from torch import Tensor

from volo.model.outlook_ops.registration import make_differentiable

logger = logging.getLogger("volo")

_NATIVE = (torch.float32, torch.bfloat16)
_COMPILE_S = 5
_COMPILE_LIMIT_S = 60
_compiling = threading.Lock()


def aggregate(values: Tensor, logits: Tensor, kernel_size: int, stride: int, padding: int) -> Tensor:
    """See `outlook_aggregate`. Any kernel, stride and padding, on the CPU; computes in float32 whatever the dtype.

    Differentiable once: a second derivative raises.
    """
    dtype = values.dtype
    values, logits = (tensor if tensor.dtype in _NATIVE else tensor.float() for tensor in (values, logits))
    return _forward(values, logits, kernel_size, stride, padding).to(dtype)


def limit(device: torch.device) -> str | None:
    """Why the kernel cannot work on such a device, or None where it can."""
    if device.type != "cpu":
        return f"computes on the CPU only, got values on {device}"
    return None if is_available() else "needs numba, which is not installed"


@torch.compiler.assume_constant_result
def is_available() -> bool:
    """Whether Numba is installed. Does not import it; torch.compile takes the answer as it stands."""
    return _has_numba()


def compile_ahead() -> None:
    """Starts to compile the 3 x 3 kernels in a thread of its own, so that whoever needs them on this machine finds them
    in Numba's cache, or waits for them; does nothing where Numba is not installed. A process that ends meanwhile waits
    too: Python must not end in the midst of a compiler that calls it back."""
    if is_available():
        threading.Thread(target=_compile_common, name="compile-outlook").start()


def _compile_common() -> None:
    for name in ("forward_3", "backward_3"):
        _kernel(name)


@cache
def _has_numba() -> bool:
    return find_spec("numba") is not None


@torch.library.custom_op("volo::outlook_cpu", mutates_args=(), device_types="cpu")
def _forward(values: Tensor, logits: Tensor, kernel_size: int, stride: int, padding: int) -> Tensor:
    values, logits = values.contiguous(), logits.contiguous()
    out = torch.empty_like(values)
    _run("forward", values, logits, kernel_size, stride, padding, out=out)
    return out


@torch.library.custom_op("volo::outlook_cpu_backward", mutates_args=(), device_types="cpu")
def _backward(
    grad: Tensor, values: Tensor, logits: Tensor, kernel_size: int, stride: int, padding: int
) -> tuple[Tensor, Tensor]:
    grad, values, logits = grad.contiguous(), values.contiguous(), logits.contiguous()
    dvalues, dlogits = torch.empty_like(values), torch.empty_like(logits)
    _run("backward", values, logits, kernel_size, stride, padding, grad=grad, dvalues=dvalues, dlogits=dlogits)
    return dvalues, dlogits


make_differentiable(_forward, _backward)


def gradients_in_place(
    grad: Tensor, values: Tensor, logits: Tensor, kernel_size: int, stride: int, padding: int
) -> tuple[Tensor, Tensor]:
    """Of values and logits, from that of the output, which the values' are written over: a task has read its part of it
    before it writes there. All must be contiguous."""
    assert grad.is_contiguous() and values.is_contiguous() and logits.is_contiguous()
    dlogits = torch.empty_like(logits)
    _run("backward", values, logits, kernel_size, stride, padding, grad=grad, dvalues=grad, dlogits=dlogits)
    return grad, dlogits


def _run(name: str, values: Tensor, logits: Tensor, K: int, stride: int, padding: int, **tensors: Tensor) -> None:
    """Run a kernel on contiguous tensors, on as many threads as PyTorch uses."""
    kernel = _kernel(f"{name}_{3 if K == 3 else 'any'}")
    B, H, W, C = values.shape
    _, h, w, heads, _, _ = logits.shape
    threads = torch.get_num_threads()
    # A task is an image; with fewer images than threads, a part of its heads.
    splits = next((s for s in range(1, heads) if heads % s == 0 and B * s >= threads), heads)
    arguments = {"tasks": B * splits, "splits": splits, "B": B, "H": H, "W": W, "h": h, "w": w, "heads": heads}
    arguments |= {"d": C // heads, "K": K, "S": stride, "P": padding}
    arguments |= {"half_values": values.dtype == torch.bfloat16, "half_logits": logits.dtype == torch.bfloat16}
    tensors |= {"values": values, "logits": logits}
    arguments |= {name: tensor.data_ptr() for name, tensor in tensors.items()}
    _run_on_threads(kernel, min(threads, B * splits), arguments)


def _run_on_threads(kernel, threads: int, arguments: dict[str, int]) -> None:
    """Call the kernel on each of so many threads, this one among them; they share the tasks out themselves."""
    from volo.model.outlook_ops.cpu_kernels import ARGUMENTS

    packed = np.zeros((), ARGUMENTS)
    for name, number in arguments.items():
        packed[name] = number
    pointer = packed.ctypes.data
    if threads < 2:
        kernel(pointer)
    elif parallel := _openmp():
        parallel(kernel, pointer, threads, 0)
    else:
        others = [threading.Thread(target=kernel, args=(pointer,)) for _ in range(threads - 1)]
        for thread in others:
            thread.start()
        kernel(pointer)
        for thread in others:
            thread.join()


@cache
def _openmp():
    """The entry of the OpenMP library that PyTorch itself is linked with; None where it has another interface."""
    folder = os.path.join(os.path.dirname(torch.__file__), "lib")
    for name in ("libtorch_cpu.so", "libtorch_cpu.dylib"):
        try:
            parallel = ctypes.CDLL(os.path.join(folder, name)).GOMP_parallel
        except (OSError, AttributeError):
            continue
        parallel.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
        parallel.restype = None
        return parallel
    return None


def _kernel(name: str):
    with _compiling:
        return _compiled(name)


@cache
def _compiled(name: str):
    """A kernel of `cpu_kernels` as a C function, which does not hold Python's lock while it runs."""
    from numba.core import event

    class Announcement(event.Listener):
        """Numba reports the passes of a compilation; a kernel that comes from its cache has none."""

        told = False

        def on_start(self, _):
            if not self.told:
                logger.info("compiling the CPU kernel %s once, about %d s; cached afterwards", name, _COMPILE_S)
            self.told = True

        def on_end(self, _):
            pass

    with _alone_on_this_machine(), event.install_listener("numba:run_pass", Announcement()):
        from volo.model.outlook_ops import cpu_kernels

        return ctypes.CFUNCTYPE(None, ctypes.c_void_p)(cpu_kernels.address(name))


@contextlib.contextmanager
def _alone_on_this_machine() -> Iterator[None]:
    """One process compiles at a time, and the others find the result in the cache. A process that has waited
    _COMPILE_LIMIT_S, or cannot write a lock, goes on without."""
    user = os.getuid() if hasattr(os, "getuid") else "user"  # a number: in a container it may have no name
    lock = FileLock(os.path.join(tempfile.gettempdir(), f"volo-kernels-{user}.lock"))
    with contextlib.suppress(OSError, Timeout):
        lock.acquire(timeout=_COMPILE_LIMIT_S)
    try:
        yield
    finally:
        lock.release()
