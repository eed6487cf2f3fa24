"""What is analysed: a model rebuilt from a checkpoint alone, and the images of a split it is shown."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from volo import checkpoint
from volo.data.cache import Images
from volo.data.datasets import open_split
from volo.data.pipeline import Pixels, evaluation_batches
from volo.data.splits import split_train
from volo.errors import InputError
from volo.model.build import build_model

EVAL_BATCH = 256


@dataclass(frozen=True)
class Subject:
    """A trained model in evaluation mode, on the CPU, and its description."""

    model: nn.Module
    description: checkpoint.Description


@dataclass(frozen=True)
class View:
    """Part of a data set's images. `index` (N,) int64 says which, in the order they are shown."""

    images: Images
    index: np.ndarray

    @property
    def labels(self) -> np.ndarray:
        """(N,) int64."""
        return self.images.labels[self.index]

    def pixels(self, places: np.ndarray) -> np.ndarray:
        """(n, H, W, 3) uint8, by place in the view."""
        return np.asarray(self.images.images[self.index[places]])


def load_subject(path: Path) -> Subject:
    """The model of a checkpoint folder or a lone model file. Raises InputError for a foreign or damaged one."""
    weights, description = checkpoint.load_model(path)
    settings = description.settings
    model = build_model(
        settings.model, num_classes=len(description.class_names), image_size=settings.data.image_size
    )
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise InputError(f"{path} holds other weights than its settings describe ({error})") from None
    return Subject(model.eval(), description)


def open_view(description: checkpoint.Description, split: str, data_dir: str | None = None) -> View:
    """The test images, or the validation images of the very split the checkpoint was trained with.

    Args:
        description: Of the checkpoint; it says how images are read.
        split: test or val.
        data_dir: Another place of the data than the checkpoint names.

    Raises:
        InputError: data that are missing or have other classes, or no validation split.
    """
    data = description.settings.data
    if data_dir is not None:
        if data.dataset == "shapes":
            raise InputError(f"data_dir has no effect on shapes, which are drawn, got {data_dir!r}; leave it out")
        data = data.model_copy(update=dict(data_dir=str(Path(data_dir).expanduser().absolute())))
    images = open_split(data, "test" if split == "test" else "train")
    if images.class_names != description.class_names:
        missing = sorted({*description.class_names} ^ {*images.class_names})
        raise InputError(
            f"the data must have the checkpoint's {len(description.class_names)} classes, got "
            f"{len(images.class_names)} in {data.data_dir}; not in both: {', '.join(missing[:8])}"
        )
    if split == "test":
        return View(images, np.arange(len(images)))
    parts = split_train(images.labels, data.val_fraction, data.split_seed, data.train_images)
    if not len(parts.val):
        raise InputError("split val needs a validation split, got a checkpoint trained with val_fraction=0; use test")
    if parts.digest() != description.split_hash:
        raise InputError(
            f"the data must be split as they were for training, got other images in {data.data_dir}; "
            "restore them, or use --split test"
        )
    return View(images, parts.val)


@torch.inference_mode()
def compute_logits(
    subject: Subject, view: View, device: torch.device, rank: int = 0, world_size: int = 1
) -> np.ndarray:
    """(n, classes) float32, of this worker's share of the view."""
    data = subject.description.settings.data
    model = subject.model.to(device)
    pixels = Pixels(view.images.images, data.mean, data.std, device)
    batches = evaluation_batches(
        view.images, view.index, pixels, batch_size=EVAL_BATCH, rank=rank, world_size=world_size
    )
    logits = [model(images).float().cpu().numpy() for images, _ in batches]
    return np.concatenate(logits) if logits else np.zeros((0, len(subject.description.class_names)), np.float32)
