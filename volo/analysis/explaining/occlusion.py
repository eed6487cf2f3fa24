"""Occlusion: how much probability does the class lose if a window covers part of the image?

A window of gray (the mean pixel, 0 after normalization) slides over the image. At each place,

    map = p(class) lost there  -  root mean square over the other classes of what they lose there

so that a place counts if covering it lowers this class, and not if it merely changes all of them; the output of an
untrained network changes with whatever stands out from the background. Source: Zeiler and Fergus,
arXiv:1311.2901, section 4.2. Differs: the other classes' losses are subtracted.

captum's Occlusion sees one output at a time and no other class, so the windows are covered here, some images and
windows to a batch.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from volo.analysis.explaining.explain import Question
from volo.analysis.explaining.heatmaps import spread
from volo.analysis.subject import Subject, View, with_progress
from volo.data.pipeline import evaluation_batch_size

METHOD = (
    "occlusion: probability the class loses where a window covers the image, less the root mean square of what the "
    "other classes lose"
)
WINDOW = 3 / 16  # of the image's side
PLACES = 6  # of the window along a side, evenly spaced; they overlap a little
IMAGES = 64  # held at once


@dataclass(frozen=True)
class Windows:
    """Where the window stands: it begins at rows `tops` and columns `lefts` and is `height` by `width` pixels.

    As many places for images of any size (of at least PLACES pixels); the last ones end with the image.
    """

    tops: tuple[int, ...]
    lefts: tuple[int, ...]
    height: int
    width: int

    @classmethod
    def of(cls, image_height: int, image_width: int) -> "Windows":
        height, width = (math.ceil(WINDOW * side) for side in (image_height, image_width))
        return cls(_starts(image_height, height), _starts(image_width, width), height, width)

    def covers(self, image_height: int, image_width: int) -> Tensor:
        """(places, H, W) bool: the pixels covered, row by row of places."""
        rows, columns = torch.arange(image_height), torch.arange(image_width)
        down = torch.stack([(rows >= top) & (rows < top + self.height) for top in self.tops])
        across = torch.stack([(columns >= left) & (columns < left + self.width) for left in self.lefts])
        return (down[:, None, :, None] & across[None, :, None, :]).flatten(0, 1)

    def as_plain(self) -> dict[str, list[int]]:
        """window (height, width), tops, lefts: pixels."""
        return {"window": [self.height, self.width], "tops": list(self.tops), "lefts": list(self.lefts)}

    def heatmaps(self, maps: np.ndarray, image_height: int, image_width: int) -> np.ndarray:
        """(n, tops, lefts) -> (n, H, W): each value at the middle of its window, linear between them."""
        rows, columns = np.array(self.tops) + self.height / 2, np.array(self.lefts) + self.width / 2
        return spread(maps, rows, columns, image_height, image_width)


@dataclass(frozen=True, eq=False)
class Occlusion:
    """Work for workers: (n, tops, lefts) float32 maps that answer a question."""

    question: Question

    def __call__(
        self, subject: Subject, view: View, device: torch.device, rank: int = 0, world_size: int = 1
    ) -> np.ndarray:
        model = self.question.model(subject).to(device)
        batches = self.question.batches(subject, view, device, rank, world_size, IMAGES)
        batches = with_progress(batches, "explaining by occlusion", self.question.num_images(rank, world_size))
        maps = [occlude(model, images, classes).cpu().numpy() for images, classes in batches]
        return np.concatenate(maps) if maps else np.zeros((0, 0, 0), np.float32)


@torch.inference_mode()
def occlude(model: nn.Module, images: Tensor, classes: Tensor) -> Tensor:
    """(B, in_chans, H, W) normalized images and (B,) classes -> (B, tops, lefts) float32, in [-1, 1]."""
    windows = Windows.of(*images.shape[-2:])
    covers = windows.covers(*images.shape[-2:]).to(images.device)  # (P, H, W)
    before = model(images).float().softmax(dim=-1)  # (B, K)
    num_places = len(covers)
    pairs = torch.arange(len(images) * num_places, device=images.device)
    lost = []
    for part in pairs.split(evaluation_batch_size(images.device)):
        image, place = part // num_places, part % num_places
        covered = images[image].masked_fill(covers[place][:, None], 0.0)
        after = model(covered).float().softmax(dim=-1)  # (b, K)
        lost.append(loss_of_class(before[image] - after, classes[image]))
    return torch.cat(lost).view(len(images), len(windows.tops), len(windows.lefts))


def loss_of_class(changes: Tensor, classes: Tensor) -> Tensor:
    """(b, K) losses of probability and (b,) classes -> (b,): the class's, less the root mean square of the others'."""
    own = changes.gather(1, classes[:, None])  # (b, 1)
    others = changes.scatter(1, classes[:, None], 0.0).clamp(min=0)
    return own[:, 0] - (others.square().sum(dim=1) / max(1, changes.shape[1] - 1)).sqrt()


def _starts(side: int, window: int) -> tuple[int, ...]:
    return tuple(np.unique(np.linspace(0, side - window, PLACES).round().astype(int)).tolist())
