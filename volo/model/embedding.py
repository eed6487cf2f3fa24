"""Patch embedding and position embedding. Shapes: images (B, in_chans, H, W), maps (B, h, w, C)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PatchEmbeddingConv(nn.Module):
    """Patches by strided convolution, after an optional stem of overlapping 3x3 convolutions.

    (B, in_chans, H, W) -> (B, h, w, embed_dim) with h = ceil(H / patch_size). Each level of the stem halves the image;
    the projection covers the rest of the patch.

    Args:
        stem_channels: Width of each level of the stem; patch_size must be divisible by 2 once per level.
        stem_depth: Convolutions per level: the first has stride 2, the others stride 1.
        pad: Whether to pad the bottom and right with zeros if patch_size does not divide the image size; otherwise such
            images are refused.

    Raises:
        ValueError: patch_size does not fit the stem; in forward, an image is smaller than a patch, or needs padding
            although `pad` is off.
    """

    def __init__(
        self,
        patch_size: int,
        embed_dim: int,
        in_chans: int = 3,
        stem_channels: Sequence[int] = (),
        stem_depth: int = 1,
        pad: bool = True,
    ):
        super().__init__()
        stem_stride = 2 ** len(stem_channels)
        if patch_size % stem_stride:
            raise ValueError(
                f"patch_size must be divisible by 2 for every level of the stem, got {patch_size=}, {stem_channels=}"
            )
        self.patch_size = patch_size
        self.pad = pad
        stem, width = [], in_chans
        for channels in stem_channels:
            for stride in (2, *(stem_depth - 1) * [1]):
                stem += [_stem_convolution(width, channels, stride), nn.GELU()]
                width = channels
        self.stem = nn.Sequential(*stem)
        rest = patch_size // stem_stride
        self.proj = nn.Conv2d(width, embed_dim, kernel_size=rest, stride=rest)

    def forward(self, images: Tensor) -> Tensor:
        x = self.proj(self.stem(self._padded(images)))  # (B, C, h, w)
        return x.permute(0, 2, 3, 1)  # (B, h, w, C)

    def _padded(self, images: Tensor) -> Tensor:
        H, W = images.shape[-2:]
        if min(H, W) < self.patch_size:
            raise ValueError(f"images must be at least one patch, got {H}x{W} pixels, patch_size={self.patch_size}")
        below, right = -H % self.patch_size, -W % self.patch_size
        if not (below or right):
            return images
        if not self.pad:
            raise ValueError(
                f"image sizes must be divisible by patch_size if pad is off, got {H}x{W} pixels, "
                f"patch_size={self.patch_size}; set pad=True or resize the images"
            )
        return F.pad(images, (0, right, 0, below))


def _stem_convolution(in_chans: int, out_chans: int, stride: int) -> nn.Conv2d:
    """A 3x3 convolution initialized to keep the scale of its input (arXiv 1502.01852).

    Without that, or a norm, the image fades in the stem, and later layers learn late (EXPERIMENTS.md).
    """
    convolution = nn.Conv2d(in_chans, out_chans, kernel_size=3, stride=stride, padding=1)
    nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
    assert convolution.bias is not None
    nn.init.zeros_(convolution.bias)
    return convolution


def grid_size(image_size: int, patch_size: int) -> int:
    """Number of patches along a side, including padding."""
    return -(-image_size // patch_size)


class PositionEmbedding(nn.Module):
    """Adds a learned vector to each position of the map; resized (bicubic) for maps of another size.

    (B, h, w, C) -> (B, h, w, C), of the map's type: under autocast the blocks that follow compute in it.
    """

    def __init__(self, grid: int, dim: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(1, grid, grid, dim))
        nn.init.trunc_normal_(self.weight, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        return x + resize_position_embedding(self.weight, x.shape[1], x.shape[2]).to(x.dtype)


def resize_position_embedding(weight: Tensor, h: int, w: int) -> Tensor:
    """(1, H, W, C) -> (1, h, w, C), bicubic with antialiasing; unchanged if the size is the same."""
    if weight.shape[1:3] == (h, w):
        return weight
    resized = F.interpolate(weight.permute(0, 3, 1, 2), size=(h, w), mode="bicubic", antialias=True)
    return resized.permute(0, 2, 3, 1)
