"""Which parameters are optimized by what, how fast, and which of them decay."""

from typing import Any

import torch
from torch import nn

from volo.model.layers import decayed_weights
from volo.settings.optim import OptimSettings
from volo.training.optimizer.combined import Combined
from volo.training.optimizer.depths import layer_depths
from volo.training.optimizer.muon import Muon


def build_optimizer(model: nn.Module, settings: OptimSettings) -> torch.optim.Optimizer:
    """AdamW; or Muon for hidden matrices and kernels, if any are trained, and AdamW for heads, embeddings, norms and
    biases.

    Weight decay applies to weight matrices and convolution kernels only: norms, biases, position embeddings, and class
    tokens are not decayed. Each parameter group has an `lr_scale`, which `set_learning_rate` multiplies by; it is 1 for
    all groups if `layer_decay` is 1.
    """
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    hidden = hidden_weights(model) & trained if settings.optimizer == "muon" else set()
    if not hidden:
        return _adamw(_groups(model, settings, trained), settings)
    others = trained - hidden
    return Combined(
        muon=Muon(_groups(model, settings, hidden), lr=settings.lr),
        adamw=_adamw(_groups(model, settings, others), settings),
    )


def hidden_weights(model: nn.Module) -> set[str]:
    """The names of the matrices and kernels up to the last block: of all but the heads."""
    depths = layer_depths(model)
    top = max(depths.values())
    return {name for name in decayed_weights(model) if depths[name] < top}


def _groups(model: nn.Module, settings: OptimSettings, names: set[str]) -> list[dict[str, Any]]:
    """The named parameters by depth (where layers have rates of their own), and by whether they decay."""
    decayed = decayed_weights(model)
    depths = layer_depths(model)
    top = max(depths.values())
    groups: dict[tuple[int, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if name in names:
            depth = depths[name] if settings.layer_decay < 1 else top
            groups.setdefault((depth, name not in decayed), []).append(parameter)
    return [
        {
            "params": parameters,
            "weight_decay": 0.0 if is_spared else settings.weight_decay,
            "lr_scale": settings.layer_decay ** (top - depth),
        }
        for (depth, is_spared), parameters in sorted(groups.items(), key=lambda item: item[0])
    ]


def _adamw(groups: list[dict[str, Any]], settings: OptimSettings) -> torch.optim.AdamW:
    return torch.optim.AdamW(groups, lr=settings.lr, betas=(0.9, settings.beta2), fused=True)
