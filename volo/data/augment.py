"""Per-sample augmentation of whole batches, on the device, from the epoch table's uniform numbers.

Shapes: N images in all, B in the batch, H x W pixels.
"""

import torch
from torch import Tensor

from volo.data.epoch import Draw


def crop_and_flip(images: Tensor, index: Tensor, uniforms: Tensor, padding: int, hflip: float) -> Tensor:
    """Gathers images, each moved by up to `padding` pixels (edges reflected) and mirrored with probability `hflip`.

    Args:
        images: (N, H, W, 3) uint8.
        index: (B,) which of them.
        uniforms: (B, NUM_UNIFORMS) in [0, 1), columns as in `Draw`.
        padding: Less than H and W.

    Returns:
        (B, H, W, 3) uint8.
    """
    _, H, W, _ = images.shape
    flip = uniforms[:, Draw.FLIP] < hflip
    rows = _moved(uniforms[:, Draw.CROP_Y], H, padding)  # (B, H)
    cols = _moved(uniforms[:, Draw.CROP_X], W, padding)  # (B, W)
    cols = torch.where(flip[:, None], cols.flip(1), cols)
    return images[index[:, None, None], rows[:, :, None], cols[:, None, :]]  # (B, H, W, 3)


def _moved(uniform: Tensor, size: int, padding: int) -> Tensor:
    """(B,) in [0, 1) -> (B, size) source coordinates, shifted by -padding ... padding and reflected at the edges."""
    shift = (uniform * (2 * padding + 1)).long() - padding
    place = (torch.arange(size, device=uniform.device) + shift[:, None]).abs()
    return (size - 1) - ((size - 1) - place).abs()


def normalise(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """(B, H, W, 3) uint8 -> (B, 3, H, W) float32, channels last in memory. `mean` and `std` (3,), of [0, 1]."""
    return ((images.float() / 255 - mean) / std).permute(0, 3, 1, 2)
