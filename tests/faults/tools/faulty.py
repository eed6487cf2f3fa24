"""A training job with a fault built in: forked and armed with a `Flaw`, or, also under torchrun,
`python -m tests.faults.tools.faulty FLAW FLAGS...`.

Flaws, of rank 1 where there are two, in the third step where not said otherwise:

    nan       an image decodes to nan, in every epoch
    gradient  of a share the gradient is infinite, in every step, but not the loss
    hang      the data never come
    raise     an error that nobody foresaw
    memory    the process may take hardly more memory than it has
"""

import ctypes
import os
import resource
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

import volo.cli.train  # noqa: F401  # before memory is limited
from volo.cli.outcome import run_job
from volo.data.pipeline import Pixels, TrainingBatches
from volo.training.learner import Learner

BAD_IMAGE = 17
FAULTY_STEP = 3
SPARE_BYTES = 2**24
M_MMAP_THRESHOLD = -3


def nan() -> None:
    real = Pixels.augmented

    def augmented(self, index, *others):
        images = real(self, index, *others)
        images[torch.from_numpy(index == BAD_IMAGE)] = float("nan")
        return images

    Pixels.augmented = augmented


def gradient() -> None:
    real = Learner.__init__

    def begin(self, *args) -> None:
        real(self, *args)
        if is_faulty_rank():
            next(self.model.parameters()).register_hook(lambda gradient: gradient * float("inf"))

    Learner.__init__ = begin


def hang() -> None:
    def wait_for_ever() -> None:
        threading.Event().wait()

    _before(TrainingBatches, "batch", wait_for_ever)


def raises() -> None:
    def fail() -> None:
        raise ZeroDivisionError("nobody foresaw this")

    _before(Learner, "update", fail)


def memory() -> None:
    # What is freed goes back to the system, and must be asked for. With a variable set, volo keeps none.
    os.environ["MALLOC_MMAP_THRESHOLD_"] = str(2**16)
    ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, 2**16)

    def limit() -> None:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + SPARE_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (most, most))

    _before(Learner, "update", limit)


def is_faulty_rank() -> bool:
    return int(os.environ.get("RANK", "0")) == int(os.environ.get("WORLD_SIZE", "1")) - 1


def _before(owner: type, name: str, fault: Callable[[], None]) -> None:
    """Has the faulty rank do something before its third call."""
    real, num_calls = getattr(owner, name), 0
    if not is_faulty_rank():
        return

    def called(*args, **kwargs):
        nonlocal num_calls
        num_calls += 1
        if num_calls == FAULTY_STEP:
            fault()
        return real(*args, **kwargs)

    setattr(owner, name, called)


FLAWS = {"none": lambda: None, "nan": nan, "gradient": gradient, "hang": hang, "raise": raises, "memory": memory}


@dataclass(frozen=True)
class Flaw:
    """One of FLAWS, built into a forked process before it begins."""

    name: str

    def arm(self, _: Path) -> None:
        FLAWS[self.name]()


if __name__ == "__main__":
    FLAWS[sys.argv.pop(1)]()
    run_job("volo.cli.train")
