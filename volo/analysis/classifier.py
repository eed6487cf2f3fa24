"""Loads a trained model for use in Python: `volo.load`."""

import math
import os
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from volo.analysis.evaluate import softmax
from volo.analysis.subject import load_subject
from volo.data.augment import normalize
from volo.data.folders.image import Unreadable, fit_channels, fit_image, read_image
from volo.errors import InputError, brief, is_whole
from volo.runs import checkpoint
from volo.settings.data import GRAY, RGB, ResolvedData

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
            (B, in_chans, H, W) float32 -> logits (B, classes).
        class_names: In the order of the logits.
        data: How images are read: `image_size`, `resize`, `crop_pct`, `in_chans`, `mean`, `std`.
    """

    model: nn.Module
    class_names: tuple[str, ...]
    data: ResolvedData

    def preprocess(self, image: AnyImage) -> Tensor:
        """An image as the model was trained to see it: (in_chans, H, W) float32, resized and normalized, on the CPU.

        Args:
            image: A file that Pillow reads, an opened Pillow image, or an array (H, W), (H, W, 3) or (H, W, 4) uint8;
                (H, W, in_chans) for a model of other channels than 1 or 3.

        Raises:
            InputError: a file or opened image that cannot be read or has no pixels, an array of another shape or type,
                or any other value.
        """
        how = (self.data.image_size, self.data.resize, self.data.crop_pct)
        if isinstance(image, str | os.PathLike):
            pixels = read_image(image, *how, self.data.in_chans)
        elif isinstance(image, Image.Image):
            pixels = _fitted(image, self.data)
        elif self.data.in_chans in (GRAY, RGB):
            pixels = _fitted(_from_array(image), self.data)
        else:
            pixels = fit_channels(_planes(image, self.data.in_chans), *how)
        mean, std = torch.tensor(self.data.mean), torch.tensor(self.data.std)
        return normalize(torch.from_numpy(pixels.copy())[None], mean, std)[0]  # (in_chans, H, W)

    @torch.inference_mode()
    def predict(self, image: AnyImage, k: int = TOP_K, temperature: float = 1.0) -> list[tuple[str, float]]:
        """The k most likely classes (or all, if there are fewer) with their probabilities, in falling order.

        Args:
            image: As `preprocess` takes it.
            k: How many classes.
            temperature: By which logits are divided; an analysis fits the one with which probabilities say how often
                the model is right.

        Raises:
            InputError: as `preprocess`, a k that is not a whole number of at least 1, a temperature that is not above
                0, and logits that are not finite, because of the weights.
        """
        if not (is_whole(k) and k >= 1):
            raise InputError(f"k must be a whole number of at least 1, got {brief(k)}; leave it out for {TOP_K}")
        if not (isinstance(temperature, int | float) and 0 < temperature < math.inf):
            raise InputError(f"temperature must be above 0, got {brief(temperature)}; leave it out for 1")
        device = next(self.model.parameters()).device
        logits = self.model(self.preprocess(image)[None].to(device)).float().cpu().numpy()
        check_finite(logits, os.fspath(image) if isinstance(image, str | os.PathLike) else "this image")
        order, probabilities = ranked(logits / np.float32(temperature), k)
        return [(self.class_names[c], float(p)) for c, p in zip(order[0], probabilities[0], strict=True)]


def load(path: str | os.PathLike[str]) -> Classifier:
    """A trained model with its preprocessing and class names.

    Args:
        path: A run folder (its best checkpoint, or its newest if there is no best), its best or last, a checkpoint
            folder, or a model.safetensors or `.pt` (volo/runs/checkpoint.py) alone. Reading it never runs code.

    Raises:
        InputError: (a ValueError) what is no path, a path that does not exist, or a file that is damaged or foreign.
    """
    subject = load_subject(checkpoint.find(path))
    return Classifier(subject.model, subject.description.class_names, subject.description.settings.data)


def check_finite(logits: np.ndarray, image: str) -> None:
    """Raises InputError for logits (N, classes) that are not finite; `image` says of what, or of which first."""
    if not np.isfinite(logits).all():
        raise InputError(f"logits must be finite, got others for {image}; use an earlier checkpoint")


def ranked(logits: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """(N, classes) -> (N, k') classes, most likely first (among equals the first one), and their probabilities.

    k' is k, or the number of classes if that is less.
    """
    order = np.argsort(-logits.astype(np.float64), axis=1, kind="stable")[:, :k]
    return order, np.take_along_axis(softmax(logits), order, axis=1)


def _fitted(image: Image.Image, data: ResolvedData) -> np.ndarray:
    """As `fit_image`. Raises InputError also for damaged pixels, which an opened image has not read yet."""
    try:
        return fit_image(image, data.image_size, data.resize, data.crop_pct, data.in_chans)
    except InputError:
        raise
    except Exception as error:  # a damaged file can raise nearly anything
        name = getattr(image, "filename", "") or "a Pillow image"
        raise Unreadable(name, str(error) or type(error).__name__) from error


def _from_array(array: np.ndarray) -> Image.Image:
    if not _is_pixels(array) or not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))):
        raise _no_image(array, "(H, W), (H, W, 3) or (H, W, 4)")
    return Image.fromarray(array)


def _planes(array: np.ndarray, in_chans: int) -> list[Image.Image]:
    if not _is_pixels(array) or array.ndim != 3 or array.shape[2] != in_chans:
        raise _no_image(array, f"(H, W, {in_chans})")
    return [Image.fromarray(np.ascontiguousarray(plane)) for plane in np.moveaxis(array, 2, 0)]


def _is_pixels(array: np.ndarray) -> bool:
    return isinstance(array, np.ndarray) and array.dtype == np.uint8 and array.size > 0


def _no_image(array: object, shapes: str) -> InputError:
    found = f"{array.shape} {array.dtype}" if isinstance(array, np.ndarray) else type(array).__name__
    return InputError(
        f"an image must be a path, a Pillow image, or an array {shapes} uint8, got {found}; scale values to 0 ... 255 "
        "and move the channels last"
    )
