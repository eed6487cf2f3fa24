"""The cost of a model: its parameters and its operations per image."""

import torch
from torch.utils.flop_counter import FlopCounterMode

from volo.model.build import build_model
from volo.settings.config import Settings


def counts(settings: Settings, num_classes: int) -> dict[str, int]:
    """`params`, and `flops` of the forward pass for one image (a multiply-add counts as two)."""
    size, in_chans = settings.data.image_size, settings.data.in_chans
    plain = settings.model.model_copy(update=dict(outlook_op="reference"))  # made of operations that are counted
    with torch.device("meta"):
        model = build_model(plain, num_classes=num_classes, image_size=size, in_chans=in_chans)
        model.eval().requires_grad_(False)
        with FlopCounterMode(display=False) as counter:
            model(torch.empty(1, in_chans, size, size))
    return {"params": sum(p.numel() for p in model.parameters()), "flops": counter.get_total_flops()}
