"""What all explanations share: which images, for which class, with which weights, and the file format.

Shapes: n explained images of H x W pixels.
"""

import copy
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from volo.analysis.evaluate import Predictions
from volo.analysis.predictions import choose_images
from volo.analysis.subject import Subject, View
from volo.data.epoch import worker_share
from volo.data.pipeline import Pixels
from volo.files import replace_synced

NUM_SHOWN, NUM_SCORED = 12, 500


@dataclass(frozen=True, eq=False)
class Selection:
    """Which images are explained, each for the class it was predicted as.

    Attributes:
        places: (n,) int64, ascending, in the order of the split.
        shown: (k,) int64 into `places`: images to look at, wrong ones first, each part by falling confidence.
        scored: (m,) int64 into `places`: images predicted right, drawn at random, to judge the maps by where the
            truth is known.
    """

    places: np.ndarray
    shown: np.ndarray
    scored: np.ndarray


def select(predictions: Predictions, num_shown: int = NUM_SHOWN, num_scored: int = 0, seed: int = 0) -> Selection:
    """Images to show, half of them wrong if possible, and up to `num_scored` right ones.

    The same predictions and seed select the same images.
    """
    chosen = choose_images(predictions, num_shown, seed)
    shown = np.array(chosen["wrong"] + chosen["right"], np.int64)
    right = np.flatnonzero(predictions.correct)
    scored = np.random.default_rng(seed).permutation(right)[:num_scored]
    places = np.union1d(shown, scored)
    return Selection(places, np.searchsorted(places, shown), np.searchsorted(places, np.sort(scored)))


@dataclass(frozen=True, eq=False)
class Question:
    """Why are the images at `places` (n,) of a view predicted as `classes` (n,)?

    `shuffle_seed` asks the same of the same network with shuffled weights: an explanation that still finds the object
    follows the image, not what the network learned (Adebayo et al., arXiv:1810.03292).
    """

    places: np.ndarray
    classes: np.ndarray
    shuffle_seed: int | None = None

    def model(self, subject: Subject) -> nn.Module:
        return subject.model if self.shuffle_seed is None else shuffled(subject.model, self.shuffle_seed)

    def num_images(self, rank: int, world_size: int) -> int:
        """Of this worker's share."""
        first, last = worker_share(0, len(self.places), rank, world_size)
        return last - first

    def batches(
        self, subject: Subject, view: View, device: torch.device, rank: int, world_size: int, batch_size: int
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """This worker's share: (b, in_chans, H, W) normalized images and their (b,) classes."""
        data = subject.description.settings.data
        pixels = Pixels(view.images, data.mean, data.std, device)
        first, last = worker_share(0, len(self.places), rank, world_size)
        for start in range(first, last, batch_size):
            part = slice(start, min(start + batch_size, last))
            yield pixels.plain(view.index[self.places[part]]), torch.from_numpy(self.classes[part]).to(device)


def shuffled(model: nn.Module, seed: int) -> nn.Module:
    """A copy of the model with the entries of each parameter permuted at random."""
    model, generator = copy.deepcopy(model), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            order = torch.randperm(parameter.numel(), generator=generator).to(parameter.device)
            parameter.copy_(parameter.flatten()[order].view_as(parameter))
    return model


def save_explanation(
    path: Path,
    about: dict[str, Any],
    predictions: Predictions,
    selection: Selection,
    maps: np.ndarray,
    heatmaps: np.ndarray,
) -> None:
    """Writes a dictionary of tensors and plain values, to be read by `torch.load(path, weights_only=True)`.

    method and the other entries of `about`. split, class_names.
    indices (n,): the images, by place in the split. labels (n,), predicted (n,): classes; the predicted one is
    explained. confidence (n,): its probability. maps (n, h, w): as computed, on their own grid; heatmaps
    (n, H, W): the same spread over the image's pixels. shown (k,), scored (m,): into the above, as in `Selection`.
    """
    places = selection.places
    content = about | {
        "split": predictions.split,
        "class_names": list(predictions.class_names),
        "indices": torch.from_numpy(places),
        "labels": torch.from_numpy(predictions.labels[places]),
        "predicted": torch.from_numpy(predictions.predicted[places]),
        "confidence": torch.from_numpy(predictions.confidence[places]),
        "maps": torch.from_numpy(maps),
        "heatmaps": torch.from_numpy(heatmaps),
        "shown": torch.from_numpy(selection.shown),
        "scored": torch.from_numpy(selection.scored),
    }
    buffer = io.BytesIO()
    torch.save(content, buffer)
    replace_synced(path, buffer.getvalue())
