"""What is analysed: a model rebuilt from a checkpoint alone, and the images of a split it is shown."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from volo import checkpoint
from volo.data.cache import Images, cached
from volo.data.class_names import differences, places, plain
from volo.data.datasets import open_split
from volo.data.imagefolder import ImageFolder
from volo.data.pipeline import Pixels, evaluation_batches
from volo.data.splits import split_train
from volo.errors import InputError
from volo.model.build import build_model
from volo.model_file import Description
from volo.sections import DataSettings


@dataclass(frozen=True)
class Subject:
    """A trained model in evaluation mode, on the CPU, and its description."""

    model: nn.Module
    description: Description


@dataclass(frozen=True)
class View:
    """Part of a data set's images.

    Attributes:
        images: All of them.
        index: (N,) int64, which, in the order they are shown.
        split, data_dir: How it was opened (`open_view`).
        is_drawn: They were drawn by volo/data/shapes.py, so it is known where their objects are.
    """

    images: Images
    index: np.ndarray
    split: str
    data_dir: str | None = None
    is_drawn: bool = False

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


# What workers share among them: given the subject, a view, a device, a worker's rank and their number, the results
# (n, ...) of that worker's share, in order. It travels to other processes: a function or dataclass of a module.
Work = Callable[[Subject, View, torch.device, int, int], np.ndarray]


def open_view(description: Description, split: str, data_dir: str | None = None) -> View:
    """The test images, or the validation images of the very split the checkpoint was trained with.

    Args:
        description: Of the checkpoint; it says how images are read.
        split: test or val.
        data_dir: Another place of the data than the checkpoint names. For test also any image folder with the same
            classes, `data_dir/test/<class>/` or `data_dir/<class>/`, whatever the data set trained on.

    Raises:
        InputError: data that are missing or have other classes, or no validation split.
    """
    data = description.settings.data
    if data_dir is None:
        images, place = open_split(data, "test" if split == "test" else "train"), data.data_dir
    else:
        place = Path(data_dir).expanduser().absolute()
        images = _open_elsewhere(data, split, place, description.class_names)
    images = _in_order(images, description.class_names, place)
    is_drawn = data.dataset == "shapes" and data_dir is None
    if split == "test":
        return View(images, np.arange(len(images)), split, data_dir, is_drawn)
    parts = split_train(images.labels, data.val_fraction, data.split_seed, data.train_images)
    if not len(parts.val):
        raise InputError("split val needs a validation split, got a checkpoint trained with val_fraction=0; use test")
    if parts.digest() != description.split_hash:
        raise InputError(
            f"the data must be split as they were for training, got other images in {place}; "
            "restore them, or use --split test"
        )
    return View(images, parts.val, split, data_dir, is_drawn)


def open_validation(description: Description, data_dir: str | None) -> View | None:
    """The validation images, from `data_dir` or else from where the checkpoint says.

    None where there are none, or where they cannot be had any more: their data moved away, or changed.
    """
    if not description.settings.data.val_fraction:
        return None
    for place in dict.fromkeys((data_dir, None)):
        try:
            return open_view(description, "val", place)
        except InputError:
            continue
    return None


def _open_elsewhere(data: DataSettings, split: str, place: Path, class_names: tuple[str, ...]) -> Images:
    """The images of another place: a labelled folder, or the checkpoint's own data set moved there."""
    if split == "test" and (folder := _labelled_folder(place, data.dataset, class_names)):
        source = ImageFolder(folder.parent, folder.name, data.image_size, data.resize)
        source.say_passed_over()
        return cached(source)
    if data.dataset == "shapes":
        raise InputError(
            "for shapes, which are drawn, data_dir must be an image folder with their classes, and split test, "
            f"got {split} in {str(place)!r}; leave data_dir out"
        )
    moved = data.model_copy(update=dict(data_dir=str(place)))
    return open_split(moved, "test" if split == "test" else "train")


def _labelled_folder(place: Path, dataset: str, class_names: tuple[str, ...]) -> Path | None:
    """The folder below which class folders lie, None where the data set's own reader has to say what is there."""
    try:
        folders = {path.name for path in place.iterdir() if path.is_dir()}
    except OSError:
        return None
    if "test" in folders or "train" in folders:
        return place / "test"
    is_image_folder = folders and dataset in ("imagefolder", "shapes")
    return place if is_image_folder or {*map(plain, folders)} & {*map(plain, class_names)} else None


def _in_order(images: Images, class_names: tuple[str, ...], place: Path | str | None) -> Images:
    """The same images with the classes in the checkpoint's order. Raises InputError for other classes."""
    if images.class_names == class_names:
        return images
    if differing := differences(class_names, images.class_names):
        raise InputError(
            f"the data must have the checkpoint's {len(class_names)} classes, got "
            f"{len(images.class_names)} in {place}; {differing}"
        )
    order = np.array(places(images.class_names, class_names))
    return Images(images.images, order[images.labels], class_names)


def batch_size(device: torch.device) -> int:
    """Images computed at once. On a CPU small batches stay in its cache: at 32 half as fast again as at 256."""
    return 256 if device.type == "cuda" else 32


@torch.inference_mode()
def compute_logits(
    subject: Subject, view: View, device: torch.device, rank: int = 0, world_size: int = 1
) -> np.ndarray:
    """(n, classes) float32, of this worker's share of the view."""
    data = subject.description.settings.data
    model = subject.model.to(device)
    pixels = Pixels(view.images.images, data.mean, data.std, device)
    batches = evaluation_batches(
        view.images, view.index, pixels, batch_size=batch_size(device), rank=rank, world_size=world_size
    )
    logits = [model(images).float().cpu().numpy() for images, _ in batches]
    return np.concatenate(logits) if logits else np.zeros((0, len(subject.description.class_names)), np.float32)
