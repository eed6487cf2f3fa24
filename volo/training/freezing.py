"""Layers that keep the weights they start from, so that only those behind them are trained."""

from torch import nn

from volo.settings.optim import BACKBONE
from volo.training.optimizer.depths import layer_depths


def freeze(model: nn.Module, layers: int | str | None) -> None:
    """Excludes the parameters of the first layers from training: they get no gradient.

    Args:
        layers: 0 for what comes before the first block (stem, embeddings, class token), a number for as many blocks
            too, BACKBONE for all but the last norm and the heads, None for nothing.
    """
    if layers is None:
        return
    depths = layer_depths(model)
    deepest = max(depths.values()) - 1 if layers == BACKBONE else int(layers)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(depths[name] > deepest)


def frozen_norms(model: nn.Module) -> list[nn.Module]:
    """Batch norms without a parameter to train. Their statistics must stay too, so they are kept in evaluation mode."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    return [norm for norm in norms if not any(parameter.requires_grad for parameter in norm.parameters())]
