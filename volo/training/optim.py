"""AdamW, the learning rate of each step and layer, and the moving average of the weights."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from volo.model.attention import ClassBlock, TransformerBlock
from volo.model.outlook import OutlookerBlock
from volo.settings.optim import OptimSettings, ResolvedOptim

DECAYED = (nn.Linear, nn.Conv2d)
BLOCKS = (OutlookerBlock, TransformerBlock, ClassBlock)


def build_optimizer(model: nn.Module, settings: OptimSettings) -> torch.optim.AdamW:
    """AdamW whose weight decay applies to weight matrices and convolution kernels only.

    Norms, biases, position embeddings, and class tokens are not decayed. Each parameter group has an `lr_scale`, which
    `set_learning_rate` multiplies by; it is 1 for all groups if `layer_decay` is 1.
    """
    decayed = {id(module.weight) for module in model.modules() if isinstance(module, DECAYED)}
    depths = layer_depths(model)
    top = max(depths.values())
    groups: dict[tuple[int, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        depth = depths[name] if settings.layer_decay < 1 else top
        groups.setdefault((depth, id(parameter) not in decayed), []).append(parameter)
    return torch.optim.AdamW(
        [
            {
                "params": parameters,
                "weight_decay": 0.0 if is_spared else settings.weight_decay,
                "lr_scale": settings.layer_decay ** (top - depth),
            }
            for (depth, is_spared), parameters in sorted(groups.items(), key=lambda item: item[0])
        ],
        lr=settings.lr,
        betas=(0.9, settings.beta2),
        fused=True,
    )


def layer_depths(model: nn.Module) -> dict[str, int]:
    """The depth of every parameter, by name.

    It is 0 before the first block (stem, embeddings, class token), grows by one with each block in the order in which
    they are computed, and is largest for what follows the last block (norm, heads).
    """
    blocks = [name for name, module in model.named_modules() if isinstance(module, BLOCKS)]
    depths, depth = {}, 0
    for name, _ in model.named_parameters():
        own = next((number for number, block in enumerate(blocks, start=1) if name.startswith(f"{block}.")), None)
        if own is not None:
            depth = own
        elif name.startswith("downsamples."):  # a pyramid's downsample n follows its stage n
            before = tuple(f"stages.{stage}." for stage in range(int(name.split(".")[1]) + 1))
            depth = sum(block.startswith(before) for block in blocks)
        is_embedding = "pos_embed" in name or name in ("class_token", "cls_token")
        is_last = depth == len(blocks) and own is None
        depths[name] = 0 if is_embedding else depth + is_last
    return depths


@dataclass(frozen=True)
class Schedule:
    """How long training lasts, and the learning rate of each update.

    Attributes:
        total_steps: Updates of the whole schedule.
        stop_at: Updates to train for: `total_steps`, or fewer with `max_steps`.
    """

    steps_per_epoch: int
    total_steps: int
    stop_at: int
    warmup_steps: int
    lr: float
    min_lr: float

    @classmethod
    def of(cls, settings: ResolvedOptim, steps_per_epoch: int) -> "Schedule":
        total_steps = settings.epochs * steps_per_epoch
        stop_at = min(total_steps, settings.max_steps or total_steps)
        warmup_steps = round(settings.warmup_epochs * steps_per_epoch)
        return cls(steps_per_epoch, total_steps, stop_at, warmup_steps, settings.lr, settings.min_lr)

    def learning_rate(self, step: int) -> float:
        """The learning rate of the update that follows `step` updates."""
        return learning_rate(step, self.total_steps, self.warmup_steps, self.lr, self.min_lr)


def learning_rate(step: int, total_steps: int, warmup_steps: int, lr: float, min_lr: float) -> float:
    """The learning rate of the update that follows `step` updates: linear warmup to `lr`, cosine decay to `min_lr`."""
    if step < warmup_steps:
        return lr * (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return min_lr + (lr - min_lr) * (1 + math.cos(math.pi * progress)) / 2


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_scale", 1.0)


def ema_decay_at(num_averaged: int, decay: float) -> float:
    """The decay after `num_averaged` updates: small at first, so that the average soon forgets the initial weights."""
    return min(decay, (1 + num_averaged) / (10 + num_averaged))


class MovingAverage(AveragedModel):
    """An exponential moving average of a model's weights, in `module`; call `update_parameters` after every step.

    Does what PyTorch's own update does: copies the parameters the first time, averages them afterwards, copies the
    buffers (batch norm's statistics) every time, and counts. PyTorch's version also copies the count to the device of
    the parameters, and so waits for all work queued on a GPU; here the count stays on the host. The model must be on
    the same device as its copy.
    """

    def __init__(self, model: nn.Module, decay: float):
        super().__init__(model)
        self.decay = decay

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        averaged: list[Tensor] = list(self.module.parameters())
        current: list[Tensor] = list(model.parameters())
        if num_averaged := int(self.n_averaged):
            get_ema_multi_avg_fn(ema_decay_at(num_averaged, self.decay))(averaged, current, num_averaged)
        else:
            for kept, parameter in zip(averaged, current, strict=True):
                kept.copy_(parameter)
        for kept, buffer in zip(self.module.buffers(), model.buffers(), strict=True):
            kept.copy_(buffer)
        self.n_averaged += 1
