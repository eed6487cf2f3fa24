"""AdamW with decay where it belongs, and the learning rate of each step and layer."""

import math

import torch
from torch import nn

from volo.model.attention import ClassBlock, TransformerBlock
from volo.model.outlook import OutlookerBlock
from volo.settings.optim import OptimSettings

DECAYED = (nn.Linear, nn.Conv2d)
BLOCKS = (OutlookerBlock, TransformerBlock, ClassBlock)


def build_optimizer(model: nn.Module, settings: OptimSettings) -> torch.optim.AdamW:
    """Decays weight matrices and kernels only: not norms, biases, position embeddings or class tokens.

    Each group of parameters has an `lr_scale`, 1 for all where `layer_decay` is 1; `set_learning_rate` heeds it.
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
    """Of every parameter, by name: 0 before the first block (stem, embeddings, class token), then one more with each
    block in the order they are computed, and last what stands behind them all (norm, heads)."""
    blocks = [name for name, module in model.named_modules() if isinstance(module, BLOCKS)]
    depths, depth = {}, 0
    for name, _ in model.named_parameters():
        own = next((number for number, block in enumerate(blocks, start=1) if name.startswith(f"{block}.")), None)
        if own is not None:
            depth = own
        elif name.startswith("downsamples."):  # a pyramid's number n stands behind its stage n
            before = tuple(f"stages.{stage}." for stage in range(int(name.split(".")[1]) + 1))
            depth = sum(block.startswith(before) for block in blocks)
        is_embedding = "pos_embed" in name or name in ("class_token", "cls_token")
        is_last = depth == len(blocks) and own is None
        depths[name] = 0 if is_embedding else depth + is_last
    return depths


def learning_rate(step: int, total_steps: int, warmup_steps: int, lr: float, min_lr: float) -> float:
    """Of the update that follows `step` others: linear warm-up to `lr`, then half a cosine down to `min_lr`."""
    if step < warmup_steps:
        return lr * (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return min_lr + (lr - min_lr) * (1 + math.cos(math.pi * progress)) / 2


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_scale", 1.0)
