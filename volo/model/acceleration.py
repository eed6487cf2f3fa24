"""Our outlook attention in the place of timm's and the published code's, inside a model that exists."""

import numbers
from typing import Any, TypeVar

import torch
from torch import nn

from volo.model.outlook import OutlookAttention
from volo.model.torch_internals import may_have_hooks

Model = TypeVar("Model", bound=nn.Module)
SHARED = ("v", "attn", "attn_drop", "proj", "proj_drop")


def accelerate(model: Model, op: str = "auto") -> Model:
    """Replaces the outlook attention of a model of timm's, or of the published code, by `volo.OutlookAttention`.

    In place: the new layers hold the very parameters and dropouts of the old ones, so outputs, names in the state dict,
    and optimizers stay as they are. Register hooks and compile afterwards.

    Args:
        model: A module that contains such layers: a class named OutlookAttention with `v`, `attn`, `proj`, `attn_drop`,
            `proj_drop`, `num_heads`, `kernel_size`, `padding`, and `stride`.
        op: The formulation; see `volo.ops.outlook_aggregate`.

    Returns:
        The same model; if it is such a layer itself, the layer that replaces it.

    Raises:
        ValueError: the model contains no outlook attention of others, or one that has hooks or is not as published.

    Example:
        >>> import timm, volo
        >>> model = volo.ops.accelerate(timm.create_model("volo_d1_224"))
    """
    found = {name: module for name, module in model.named_modules(remove_duplicate=False) if _is_theirs(module)}
    if not found:
        raise ValueError(
            f"model must contain outlook attention of timm or of the published code, got {type(model).__name__}; "
            "models of volo.create_model have it from the start"
        )
    made = {module: _replacement(name, module, op) for name, module in found.items()}
    for name, module in found.items():
        if not name:
            return made[module]  # type: ignore[return-value]  # a layer for a layer
        model.set_submodule(name, made[module])
    return model


def _is_theirs(module: nn.Module) -> bool:
    return type(module).__name__ == "OutlookAttention" and not isinstance(module, OutlookAttention)


def _replacement(name: str, module: Any, op: str) -> OutlookAttention:
    if may_have_hooks(module):
        raise ValueError(
            f"an outlook attention must have no hooks, which would be lost, got some on {name or 'the model'}; "
            "register them after volo.ops.accelerate"
        )
    try:
        dim, heads = module.v.in_features, module.num_heads
        with torch.device("meta"):  # the parameters come from the old layer
            ours = OutlookAttention(dim, heads, module.kernel_size, module.padding, module.stride, op=op)
        for part in SHARED:
            setattr(ours, part, getattr(module, part))
        is_same = isinstance(module.scale, numbers.Real) and abs(module.scale / ours.scale - 1) < 1e-6
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(
            f"an outlook attention must be as published, got {name or 'a layer'} without that: {error}; leave this "
            "model as it is"
        ) from None
    if not is_same:
        raise ValueError(
            f"an outlook attention must scale its logits by 1 / sqrt(dim / num_heads), got scale={module.scale} in "
            f"{name or 'a layer'}; leave this model as it is"
        )
    return ours.train(module.training)
