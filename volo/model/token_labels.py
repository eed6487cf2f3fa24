"""Token labels: a class for every patch, and patches mixed between images (arXiv 2104.10858, sections 3.2 and 3.3).

Shapes: B images, maps (B, h, w, C), h x w patches.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


class DenseLogits(NamedTuple):
    """What a model says of images, `logits` (B, classes), and of their patches, `patch_logits` (B, h, w, classes)."""

    logits: Tensor
    patch_logits: Tensor


class Box(NamedTuple):
    """A part of every map, as fractions of its height and width in [0, 1]; on no map does it cut a patch of the
    coarsest grid it was drawn for."""

    top: float
    left: float
    bottom: float
    right: float

    @property
    def area(self) -> float:
        """The fraction of the map that is inside."""
        return (self.bottom - self.top) * (self.right - self.left)


def draw_box(generator: np.random.Generator, grid: tuple[int, int], alpha: float = 1.0) -> Box:
    """MixToken's box on a grid of (h, w) patches: an area from Beta(alpha, alpha), a centre anywhere, cut off at the
    border. Depends on nothing but the generator."""
    share = generator.beta(alpha, alpha)
    edges = []
    for length in grid:
        side = int(length * np.sqrt(share))
        centre = int(generator.integers(length))
        edges.append((max(0, centre - side // 2) / length, min(length, centre + (side + 1) // 2) / length))
    (top, bottom), (left, right) = edges
    return Box(top, left, bottom, right)


def mix_tokens(x: Tensor, box: Box) -> Tensor:
    """(B, h, w, C), where the box holds what the same place of the batch in reverse order holds.

    Done twice it is undone. The partner of image i is image B - 1 - i.
    """
    h, w = x.shape[1:3]
    rows = torch.arange(h, device=x.device)[:, None]
    columns = torch.arange(w, device=x.device)[None, :]
    inside = (rows >= round(box.top * h)) & (rows < round(box.bottom * h))
    inside = inside & (columns >= round(box.left * w)) & (columns < round(box.right * w))  # (h, w)
    return torch.where(inside[..., None], x.flip(0), x)
