"""Per-sample augmentation of whole batches, on the device, driven by the epoch table's uniform numbers.

Shapes: N images in total, B in the batch, H x W pixels in C channels.
"""

import numpy as np
import torch
from torch import Tensor

from volo.data.epoch import Draw
from volo.data.transfer import to_device

ERASED_AREA = (0.02, 0.33)  # of the image
ERASED_RATIO = (0.3, 1 / 0.3)  # height to width


def crop_and_flip(images: Tensor, index: Tensor, uniforms: Tensor, padding: int, hflip: float) -> Tensor:
    """Gathers images, each shifted by up to `padding` pixels (edges reflected) and flipped with probability `hflip`.

    Args:
        images: (N, H, W, C) uint8.
        index: (B,) which images.
        uniforms: (B, NUM_UNIFORMS) in [0, 1), columns as in `Draw`.
        padding: Less than H and W.

    Returns:
        (B, H, W, C) uint8.
    """
    _, H, W, _ = images.shape
    flip = uniforms[:, Draw.FLIP] < hflip
    if not padding:
        gathered = images[index]
        return torch.where(flip[:, None, None, None], gathered.flip(2), gathered)
    rows = _moved(uniforms[:, Draw.CROP_Y], H, padding)  # (B, H)
    cols = _moved(uniforms[:, Draw.CROP_X], W, padding)  # (B, W)
    cols = torch.where(flip[:, None], cols.flip(1), cols)
    return images[index[:, None, None], rows[:, :, None], cols[:, None, :]]  # (B, H, W, C)


def _moved(uniform: Tensor, size: int, padding: int) -> Tensor:
    """(B,) in [0, 1) -> (B, size) source coordinates, shifted by -padding ... padding and reflected at the edges."""
    shift = (uniform * (2 * padding + 1)).long() - padding
    place = (torch.arange(size, device=uniform.device) + shift[:, None]).abs()
    return (size - 1) - ((size - 1) - place).abs()


def normalize(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """(B, H, W, C) uint8 -> (B, C, H, W) float32, channels last in memory. `mean` and `std` (C,) for [0, 1]."""
    rows = images.flatten(2).float()  # (B, H, W * C): six times as fast as channel by channel
    rows = rows.div_(255).sub_(mean.repeat(images.shape[2])).div_(std.repeat(images.shape[2]))
    return rows.view(images.shape).permute(0, 3, 1, 2)


def erase(images: Tensor, uniforms: np.ndarray, probability: float) -> Tensor:
    """Random erasing (arXiv 1708.04896): sets a box to 0, the mean color after normalization, with this `probability`.

    Differs from the paper: one color instead of noise; a box longer than the image is clipped, not drawn again.

    Args:
        images: (B, C, H, W).
        uniforms: (B, NUM_UNIFORMS) in [0, 1), columns as in `Draw`, on the host.

    Returns:
        (B, C, H, W).
    """
    boxes = to_device(erased_boxes(uniforms, probability, *images.shape[2:]), images.device)
    top, bottom, left, right = boxes
    rows = torch.arange(images.shape[2], device=images.device)
    cols = torch.arange(images.shape[3], device=images.device)
    in_rows = (rows >= top[:, None]) & (rows < bottom[:, None])  # (B, H)
    in_cols = (cols >= left[:, None]) & (cols < right[:, None])  # (B, W)
    return images * ~(in_rows[:, :, None] & in_cols[:, None, :])[:, None]


def erased_boxes(uniforms: np.ndarray, probability: float, H: int, W: int) -> np.ndarray:
    """(4, B) int64: first row, first column, last row + 1 and last column + 1 of each box; all 0 if there is none."""
    smallest, largest = ERASED_AREA
    area = (smallest + (largest - smallest) * uniforms[:, Draw.ERASE_AREA]) * H * W
    narrow, wide = np.log(ERASED_RATIO)
    ratio = np.exp(narrow + (wide - narrow) * uniforms[:, Draw.ERASE_RATIO])
    height = np.clip(np.round(np.sqrt(area * ratio)), 1, H)
    width = np.clip(np.round(np.sqrt(area / ratio)), 1, W)
    top = np.floor(uniforms[:, Draw.ERASE_Y] * (H - height + 1))
    left = np.floor(uniforms[:, Draw.ERASE_X] * (W - width + 1))
    boxes = np.stack([top, top + height, left, left + width]) * (uniforms[:, Draw.ERASE] < probability)
    return boxes.astype(np.int64)
