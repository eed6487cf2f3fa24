"""Mixup (arXiv 1710.09412) and CutMix (arXiv 1905.04899), each sample with its own partner and coefficient.

Shapes: B samples, images (B, C, H, W), targets (B, classes), uniforms (B, NUM_UNIFORMS).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from volo.data.epoch import Draw, EpochTable
from volo.data.transfer import to_device


@dataclass(frozen=True)
class MixPlan:
    """How samples in a part of a global batch are mixed.

    Attributes:
        partner: (B,) int64, position in the global batch; the sample's own position if it is not mixed.
        weight: (B,) float32, the fraction of the sample that is kept.
        is_cut: (B,) bool: a box is pasted (CutMix) rather than the image blended (mixup).
        box: (B, 2) float32 in [0, 1), the box's center.
    """

    partner: np.ndarray
    weight: np.ndarray
    is_cut: np.ndarray
    box: np.ndarray


def plan_mix(table: EpochTable, uniforms: np.ndarray, start: int, first: int, last: int, mix_prob: float) -> MixPlan:
    """The plan for positions [first, last) of the global batch that begins at `start`; `uniforms` are the batch's."""
    rows = uniforms[first - start : last - start]
    own = np.arange(first - start, last - start)
    is_mixed = rows[:, Draw.MIX] < mix_prob
    if table.mixup is None or table.cutmix is None:
        is_cut = np.full(len(rows), table.mixup is None)
    else:
        is_cut = rows[:, Draw.MIX_KIND] < 0.5
    blend, cut = (np.ones(len(rows)) if c is None else c[first:last] for c in (table.mixup, table.cutmix))
    weight = np.where(is_mixed, np.where(is_cut, cut, blend), 1.0).astype(np.float32)
    partner = (rows[:, Draw.PARTNER] * len(uniforms)).astype(np.int64)
    return MixPlan(np.where(is_mixed, partner, own), weight, is_cut & is_mixed, rows[:, [Draw.BOX_Y, Draw.BOX_X]])


def mix(images: Tensor, partners: Tensor, targets: Tensor, partner_targets: Tensor, plan: MixPlan) -> tuple:
    """Images and targets after mixing. A CutMix box is clipped at the border; its target weight is its true area."""
    keep, weight = _kept(plan, images.shape[-2:], images.device)  # (B, H, W), (B,)
    keep = keep[:, None]
    weight = weight[:, None]
    return images * keep + partners * (1 - keep), targets * weight + partner_targets * (1 - weight)


def one_hot(labels: Tensor, num_classes: int, smoothing: float) -> Tensor:
    """(B,) -> (B, num_classes) float32, `smoothing` of the mass spread over all classes."""
    return F.one_hot(labels, num_classes) * (1 - smoothing) + smoothing / num_classes


def _kept(plan: MixPlan, size: Sequence[int], device: torch.device) -> tuple[Tensor, Tensor]:
    """The fraction of each pixel, and of each image, that is kept."""
    weight, is_cut, box = (to_device(a, device) for a in (plan.weight, plan.is_cut, plan.box))
    half_side = (1 - weight).sqrt() / 2
    inside = torch.ones((), dtype=torch.bool, device=device)
    for axis, length in enumerate(size):
        pixel = (torch.arange(length, device=device) + 0.5) / length
        near = (pixel - box[:, axis, None]).abs() < half_side[:, None]  # (B, length)
        inside = inside & (near[:, :, None] if axis == 0 else near[:, None, :])  # (B, H, W)
    keep = torch.where(is_cut[:, None, None], 1 - inside.float(), weight[:, None, None])
    return keep, torch.where(is_cut, keep.mean(dim=(1, 2)), weight)
