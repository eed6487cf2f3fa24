"""A trained model for use in Python: `volo.load`."""

import os
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from volo.analysis.subject import load_subject
from volo.data.augment import normalize
from volo.data.folders.imagefolder import fit_image, read_image
from volo.errors import InputError
from volo.runs import checkpoint
from volo.settings.data import ResolvedData
from volo.settings.paths import local_path

TOP_K = 5
AnyImage = str | os.PathLike[str] | Image.Image | np.ndarray


@dataclass(frozen=True)
class Classifier:
    """A model, how its input is prepared, and what its outputs mean.

        classifier = volo.load("outputs/quickstart")
        classifier.predict("photo.jpg")                                      best classes with probabilities
        logits = classifier.model(torch.stack([classifier.preprocess(x) for x in images]))

    Attributes:
        model: In evaluation mode, on the CPU; move it with `classifier.model.to("cuda")` and `predict` follows.
            (B, 3, H, W) float32 -> logits (B, classes).
        class_names: In the order of the logits.
        data: How images are read: `image_size`, `resize`, `mean`, `std`.
    """

    model: nn.Module
    class_names: tuple[str, ...]
    data: ResolvedData

    def preprocess(self, image: AnyImage) -> Tensor:
        """An image as the model was trained to see it: (3, H, W) float32, resized and normalised, on the CPU.

        Args:
            image: A file that Pillow reads, an opened Pillow image, or an array (H, W), (H, W, 3) or (H, W, 4) uint8.

        Raises:
            InputError: a file that cannot be read, or an array of another shape or type.
        """
        size, resize = self.data.image_size, self.data.resize
        if isinstance(image, str | os.PathLike):
            pixels = read_image(image, size, resize)
        else:
            pixels = fit_image(image if isinstance(image, Image.Image) else _from_array(image), size, resize)
        mean, std = torch.tensor(self.data.mean), torch.tensor(self.data.std)
        return normalize(torch.from_numpy(pixels.copy())[None], mean, std)[0]  # (3, H, W)

    @torch.inference_mode()
    def predict(self, image: AnyImage, k: int = TOP_K) -> list[tuple[str, float]]:
        """The k likeliest classes (all, where there are fewer) with their probabilities, the likeliest first.

        Raises:
            InputError: as `preprocess`, and k less than 1.
        """
        if k < 1:
            raise InputError(f"k must be at least 1, got {k}")
        device = next(self.model.parameters()).device
        logits = self.model(self.preprocess(image)[None].to(device))
        order, probabilities = ranked(logits.float().cpu().numpy(), k)
        return [(self.class_names[c], float(p)) for c, p in zip(order[0], probabilities[0], strict=True)]


def load(path: str | os.PathLike[str]) -> Classifier:
    """A trained model with its preprocessing and class names.

    Args:
        path: A run folder (its best checkpoint is taken, else its newest), its best or last, a checkpoint folder, or a
            model.safetensors or `.pt` (volo/runs/checkpoint.py) alone. Reading it never runs code.

    Raises:
        InputError: (a ValueError) nothing there, or a file that is damaged or foreign.
    """
    subject = load_subject(checkpoint.find(local_path(path, "a checkpoint")))
    return Classifier(subject.model, subject.description.class_names, subject.description.settings.data)


def ranked(logits: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """(N, classes) -> (N, k') classes, the likeliest first (among equals the first one), and their probabilities.

    k' is k, or the number of classes where that is less.
    """
    exact = logits.astype(np.float64)
    exponentials = np.exp(exact - exact.max(axis=1, keepdims=True))
    probabilities = exponentials / exponentials.sum(axis=1, keepdims=True)
    order = np.argsort(-exact, axis=1, kind="stable")[:, :k]
    return order, np.take_along_axis(probabilities, order, axis=1)


def _from_array(array: np.ndarray) -> Image.Image:
    is_image = isinstance(array, np.ndarray) and array.dtype == np.uint8 and array.size > 0
    if not is_image or not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))):
        found = f"{array.shape} {array.dtype}" if isinstance(array, np.ndarray) else type(array).__name__
        raise InputError(
            f"an image must be a path, a Pillow image, or an array (H, W), (H, W, 3) or (H, W, 4) uint8, got {found}; "
            "scale values to 0 ... 255 and move the channels last"
        )
    return Image.fromarray(array)
