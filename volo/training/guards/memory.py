"""Explains an error when memory runs out: the batch, model, and device, and what to change."""

import contextlib
import resource
import sys
from collections.abc import Iterator

import torch

from volo.errors import TrainingError
from volo.settings.config import Settings
from volo.training.precision import Precision, computes_bf16
from volo.training.world import World

GIB = 2**30
# Messages of failed allocations that have no exception class: on a CPU, and in CUDA's libraries.
SIGNS = ("can't allocate memory", "not enough memory", "out of memory", "bad_alloc", "status_alloc_failed")


@contextlib.contextmanager
def memory_explained(
    settings: Settings, world: World, precision: Precision, where: str, num_validated: int | None = None
) -> Iterator[None]:
    """Turns an out-of-memory error inside into a TrainingError that explains it.

    Args:
        where: Such as "at step 3".
        num_validated: Images that a validation computes at once; None in a training step.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise TrainingError(
            f"memory ran out {where} on rank {world.rank}, {_device(world.device)}: "
            f"{_demand(settings, precision, num_validated)}, "
            f"{_share(settings, world, num_validated)} ({_reason(error)}). "
            f"Use {_remedies(settings, world, precision, num_validated)}"
        ) from error


def is_out_of_memory(error: Exception) -> bool:
    """Whether PyTorch or Python reports with this error that memory has run out, on any device."""
    known = isinstance(error, torch.OutOfMemoryError | MemoryError)
    return known or any(sign in str(error).lower() for sign in SIGNS)


def _demand(settings: Settings, precision: Precision, num_validated: int | None) -> str:
    is_mixed = precision.enabled and not num_validated  # a validation computes in float32
    dtype = str(precision.dtype).removeprefix("torch.") if is_mixed else "float32"
    return f"model {settings.model.variant} at {settings.data.image_size} pixels in {dtype}"


def _share(settings: Settings, world: World, num_validated: int | None) -> str:
    if num_validated:
        return f"{num_validated} images at once"
    optim = settings.optim
    return (
        f"batch_size={optim.batch_size} over {world.size} worker{'s' * (world.size > 1)} in "
        f"grad_accum_steps={optim.grad_accum_steps}, {_part(settings, world)} images at once"
    )


def _part(settings: Settings, world: World) -> int:
    """Number of images that a worker computes at once."""
    share = -(-settings.optim.batch_size // world.size)
    return -(-share // settings.optim.grad_accum_steps)


def _remedies(settings: Settings, world: World, precision: Precision, num_validated: int | None) -> str:
    optim, remedies = settings.optim, []
    if not num_validated and _part(settings, world) > 1:
        remedies.append(f"--grad-accum-steps {2 * optim.grad_accum_steps} (the same gradient in less memory)")
        remedies.append(f"--batch-size {max(1, optim.batch_size // 2)}")
    if not num_validated and not optim.grad_checkpointing:
        remedies.append("--grad-checkpointing (the same gradient in less memory and more time)")
    if not num_validated and not precision.enabled and (world.device.type != "cpu" or computes_bf16()):
        remedies.append("--use-amp --autocast-dtype bf16")
    return f"{', '.join(remedies)}{', or ' if remedies else ''}a smaller --model or --image-size"


def _device(device: torch.device) -> str:
    """The device and this process's peak memory on it."""
    if device.type == "cuda":
        peak, total = torch.cuda.max_memory_allocated(device), torch.cuda.get_device_properties(device).total_memory
        return f"{device} (peak {peak / GIB:.1f} of {total / GIB:.1f} GiB)"
    unit = 1 if sys.platform == "darwin" else 1024
    return f"{device} (peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / GIB:.1f} GiB)"


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
