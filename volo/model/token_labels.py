"""Token labels: a class for every patch, and patches mixed between images (arXiv 2104.10858, sections 3.2 and 3.3).

Shapes: B images, maps (B, h, w, C), h x w patches.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


class DenseLogits(NamedTuple):
    """The logits of images, `logits` (B, classes), and of their patches, `patch_logits` (B, h, w, classes)."""

    logits: Tensor
    patch_logits: Tensor


class Box(NamedTuple):
    """A box in every map, in fractions of its height and width in [0, 1].

    It does not cut any patch of the grid it was drawn for.
    """

    top: float
    left: float
    bottom: float
    right: float

    @property
    def area(self) -> float:
        """The fraction of the map inside the box."""
        return (self.bottom - self.top) * (self.right - self.left)


def draw_box(generator: np.random.Generator, grid: tuple[int, int], alpha: float = 1.0) -> Box:
    """Draws MixToken's box on a grid of (h, w) patches.

    Its area is from Beta(alpha, alpha) and its center uniform; it is clipped to the map.
    """
    share = generator.beta(alpha, alpha)
    edges = []
    for length in grid:
        side = int(length * np.sqrt(share))
        center = int(generator.integers(length))
        edges.append((max(0, center - side // 2) / length, min(length, center + (side + 1) // 2) / length))
    (top, bottom), (left, right) = edges
    return Box(top, left, bottom, right)


def mix_tokens(x: Tensor, box: Box) -> Tensor:
    """Exchanges the box between images i and B - 1 - i of (B, h, w, C). Applied twice, it is undone."""
    h, w = x.shape[1:3]
    rows = torch.arange(h, device=x.device)[:, None]
    columns = torch.arange(w, device=x.device)[None, :]
    inside = (rows >= round(box.top * h)) & (rows < round(box.bottom * h))
    inside = inside & (columns >= round(box.left * w)) & (columns < round(box.right * w))  # (h, w)
    return torch.where(inside[..., None], x.flip(0), x)
