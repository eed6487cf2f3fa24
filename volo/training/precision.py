"""Mixed precision: the dtype, autocast, and the gradient scaler that fp16 needs."""

import contextlib
import platform
from typing import Any

import torch
from torch import Tensor

from volo.errors import InputError, TrainingError
from volo.settings.config import Settings
from volo.settings.optim import OptimSettings

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}
MAX_SKIPPED = 20


def check_precision(settings: Settings, device: torch.device) -> None:
    """Raises InputError for autocast in bfloat16 on a CPU that has to imitate it, unless --device cpu insists."""
    optim = settings.optim
    wants_bf16 = bool(optim.use_amp) and optim.autocast_dtype != "fp16"
    if device.type == "cpu" and wants_bf16 and settings.run.device != "cpu" and not computes_bf16():
        raise InputError(
            f"--use-amp needs a CPU that computes in bfloat16 (x86 from AVX-512 on), got one with {capability()}, "
            "where a step takes about twenty times as long as in float32; omit it (--no-amp, if a recipe or a file "
            "sets it), or insist with --device cpu"
        )


def computes_bf16() -> bool:
    """Whether this CPU is faster with autocast than without, or not much slower: PyTorch's library for CPUs, oneDNN,
    has kernels for bfloat16 from AVX-512 on, and a plain loop for what is below."""
    return platform.machine() not in ("x86_64", "AMD64") or capability().startswith("AVX512")


def capability() -> str:
    """The vector instructions that PyTorch uses on this CPU, such as AVX2."""
    return torch.backends.cpu.get_cpu_capability()


class Precision:
    """float32, autocast in bf16, or autocast in fp16 with a gradient scaler.

    By default bf16 on a GPU and float32 on a CPU.
    """

    def __init__(self, settings: OptimSettings, device: torch.device):
        self.device = device
        self.enabled = device.type == "cuda" if settings.use_amp is None else settings.use_amp
        self.dtype = DTYPES[settings.autocast_dtype or "bf16"]
        uses_scaler = self.enabled and self.dtype == torch.float16
        self.scaler = torch.amp.GradScaler(device.type, enabled=uses_scaler)
        self.num_skipped = 0

    @property
    def skips_bad_updates(self) -> bool:
        """Whether `step` leaves the weights unchanged if a gradient is not finite."""
        return self.scaler.is_enabled()

    def autocast(self) -> contextlib.AbstractContextManager:
        return torch.autocast(self.device.type, dtype=self.dtype, enabled=self.enabled)

    def scale(self, loss: Tensor) -> Tensor:
        """The loss to call `backward()` on."""
        return self.scaler.scale(loss)

    def clip(self, optimizer: torch.optim.Optimizer, parameters: list[Tensor], grad_clip: float) -> Tensor:
        """Unscales the gradients and clips them to the norm `grad_clip` (0: no clipping). Returns the norm before."""
        self.scaler.unscale_(optimizer)
        return torch.nn.utils.clip_grad_norm_(parameters, grad_clip or float("inf"))

    def step(self, optimizer: torch.optim.Optimizer, must_skip: bool = False) -> bool:
        """The optimizer step, with gradients that `clip` has unscaled. Returns whether the weights were updated.

        The scaler decides by the gradients, which are the same on every worker, so all workers skip and stop together.

        Args:
            must_skip: Leave the weights unchanged.

        Raises:
            TrainingError: the scaler has skipped MAX_SKIPPED updates in a row for non-finite gradients.
        """
        before = self.scaler.get_scale()
        if not must_skip:
            self.scaler.step(optimizer)
        self.scaler.update()
        is_skipped = self.scaler.get_scale() < before
        self.num_skipped = self.num_skipped + 1 if is_skipped else 0
        if self.num_skipped >= MAX_SKIPPED:
            raise TrainingError(
                f"gradients must be finite, got {MAX_SKIPPED} updates in a row that were not, however small the fp16 "
                "scale; the weights are as they were before these. Use --autocast-dtype bf16, --no-amp or a lower --lr"
            )
        return not (must_skip or is_skipped)

    def state_dict(self) -> dict[str, Any]:
        return {"scaler": self.scaler.state_dict(), "num_skipped": self.num_skipped}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state["scaler"]:  # empty if the run had no scaler so far, as on a CPU
            self.scaler.load_state_dict(state["scaler"])
        self.num_skipped = state["num_skipped"]
