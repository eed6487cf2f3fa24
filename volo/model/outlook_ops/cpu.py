"""Softmax and aggregation in one compiled kernel for CPUs, forward and backward, with no copy per window.

Numba compiles it on first use and caches it on disk: next to this file, or in the user's cache folder if that is
read-only (NUMBA_CACHE_DIR overrides both). The kernels are C functions that PyTorch's own OpenMP threads call. Numba
starts no threads, so torch.set_num_threads and OMP_NUM_THREADS apply, and nothing competes with PyTorch for the cores.
Images are independent tasks, so results are equal bit for bit with any number of threads. As with PyTorch's own
operators, a process forked after the first call should not call it: OpenMP's threads do not survive a fork.
"""

import contextlib
import ctypes
import logging
import os
import threading
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec

import numpy as np
import torch
from torch import Tensor

from volo.errors import InputError
from volo.locks import take
from volo.model.outlook_ops.registration import make_differentiable
from volo.temporary import own_folder

logger = logging.getLogger("volo")

_NATIVE = (torch.float32, torch.bfloat16)
_COMPILE_S = 5
_COMPILE_LIMIT_S = 60
_compiling = threading.Lock()


def aggregate(values: Tensor, logits: Tensor, kernel_size: int, stride: int, padding: int) -> Tensor:
    """See `outlook_aggregate`. Any kernel size, stride, and padding, on the CPU; computes in float32 for every dtype.

    Differentiable once; a second derivative raises.
    """
    dtype = values.dtype
    values, logits = (tensor if tensor.dtype in _NATIVE else tensor.float() for tensor in (values, logits))
    return _forward(values, logits, kernel_size, stride, padding).to(dtype)


def limit(device: torch.device) -> str | None:
    """Why the kernel cannot compute on such a device, or None if it can."""
    if device.type != "cpu":
        return f"computes on the CPU only, got values on {device}"
    return None if is_available() else "needs numba, which is not installed"


def is_available() -> bool:
    """Whether Numba is installed. Does not import it; the answer is a constant to torch.compile."""
    return _has_numba()


def compile_ahead() -> None:
    """Starts compiling the 3 x 3 kernels in a thread; does nothing if Numba is not installed.

    Processes on this machine that need the kernels find them in Numba's cache, or wait for them. This process cannot
    exit while the thread compiles, because the compiler calls back into Python; a thread that still waits ends with it.
    """
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
    """The gradients of values and logits; that of the values overwrites `grad`, the gradient of the output.

    That is safe because a task reads its part of `grad` before it writes there. All tensors must be contiguous.
    """
    assert grad.is_contiguous() and values.is_contiguous() and logits.is_contiguous()
    dlogits = torch.empty_like(logits)
    _run("backward", values, logits, kernel_size, stride, padding, grad=grad, dvalues=grad, dlogits=dlogits)
    return grad, dlogits


def _run(name: str, values: Tensor, logits: Tensor, K: int, stride: int, padding: int, **tensors: Tensor) -> None:
    """Runs a kernel on contiguous tensors, on as many threads as PyTorch uses."""
    kernel = _kernel(f"{name}_{3 if K == 3 else 'any'}")
    B, H, W, C = values.shape
    _, h, w, heads, _, _ = logits.shape
    threads = torch.get_num_threads()
    # A task is an image, or some heads of an image if there are fewer images than threads.
    splits = next((s for s in range(1, heads) if heads % s == 0 and B * s >= threads), heads)
    arguments = {"tasks": B * splits, "splits": splits, "B": B, "H": H, "W": W, "h": h, "w": w, "heads": heads}
    arguments |= {"d": C // heads, "K": K, "S": stride, "P": padding}
    arguments |= {"half_values": values.dtype == torch.bfloat16, "half_logits": logits.dtype == torch.bfloat16}
    tensors |= {"values": values, "logits": logits}
    arguments |= {name: tensor.data_ptr() for name, tensor in tensors.items()}
    _run_on_threads(kernel, min(threads, B * splits), arguments)


def _run_on_threads(kernel, threads: int, arguments: dict[str, int]) -> None:
    """Calls the kernel on each of `threads` threads, including this one; they take tasks from a common counter."""
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
    """The entry point of the OpenMP library that PyTorch is linked with, or None if it has another interface."""
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
    """A kernel of `cpu_kernels` as a C function, which does not hold the GIL while it runs."""
    from numba.core import event

    class Announcement(event.Listener):
        """Numba reports compiler passes; there are none for a kernel from its cache."""

        told = False

        def on_start(self, _):
            if not self.told:
                logger.info("compiling the CPU kernel %s, about %d s", name, _COMPILE_S)
            self.told = True

        def on_end(self, _):
            pass

    with _alone_on_this_machine(), event.install_listener("numba:run_pass", Announcement()):
        from volo.model.outlook_ops import cpu_kernels

        return ctypes.CFUNCTYPE(None, ctypes.c_void_p)(cpu_kernels.address(name))


@contextlib.contextmanager
def _alone_on_this_machine() -> Iterator[None]:
    """A lock, so that one process compiles and the others find the result in the cache.

    A process that has waited _COMPILE_LIMIT_S, or cannot write the lock, continues without it.
    """
    lock = None
    with contextlib.suppress(OSError, InputError):
        path = own_folder("volo-kernels") / "compiling.lock"
        lock = take(path, _COMPILE_LIMIT_S, "set TMPDIR", is_wanted=threading.main_thread().is_alive)
    if not threading.main_thread().is_alive():
        raise SystemExit  # ends this thread: the process is ending, and nobody needs the kernel
    try:
        yield
    finally:
        if lock:
            lock.release()
