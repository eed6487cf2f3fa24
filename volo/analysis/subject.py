"""What is analyzed: a model rebuilt from its checkpoint alone, and the images of one split."""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from volo.console import Progress
from volo.data.datasets import drawn_from, open_source, open_split, open_train, split_of
from volo.data.decoded.cache import CHUNK, Images, cached
from volo.data.epoch import worker_share
from volo.data.folders.class_names import extra, places, plain, quoted
from volo.data.folders.encoded import EncodedImages
from volo.data.folders.imagefolder import LabeledFolder
from volo.data.folders.listing import find_folders
from volo.data.folders.table import has_table
from volo.data.pictures import shown_channels, shown_in_words
from volo.data.pipeline import Pixels, evaluation_batch_size, evaluation_batches
from volo.data.tars.layout import has_tars
from volo.errors import InputError, first_of
from volo.model.build import AnyVOLO
from volo.runs.images import OtherImages, check_images
from volo.runs.model_file import Description
from volo.runs.rebuild import rebuild
from volo.settings.buckets import is_in_bucket
from volo.settings.data import ResolvedData
from volo.settings.paths import folder_to_read

SHOWN = 8
Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Subject:
    """A trained model in evaluation mode, on the CPU, and its description.

    Attributes:
        temperature: Of predictions for new images (volo/analysis/calibration.py).
    """

    model: AnyVOLO
    description: Description
    temperature: float = 1.0


@dataclass(frozen=True)
class View:
    """Part of a data set's images.

    Attributes:
        images: All images of the data set.
        index: (N,) int64, which of them, in the order they are shown.
        split, data_dir: How it was opened (`open_view`).
        is_drawn: They were drawn by volo/data/shapes.py, so the position of their objects is known.
        doubt: Why the model may have been trained on some of them, in a sentence; empty if nothing suggests it.
    """

    images: Images
    index: np.ndarray
    split: str
    data_dir: str | None = None
    is_drawn: bool = False
    doubt: str = ""

    @property
    def labels(self) -> np.ndarray:
        """(N,) int64."""
        return self.images.labels[self.index]

    def pixels(self, places: np.ndarray) -> np.ndarray:
        """(n, H, W, in_chans) uint8, by place in the view."""
        return self.images.pixels(self.index[places])

    def pictures(self, places: np.ndarray) -> np.ndarray:
        """The same to look at: (n, H, W, 3) uint8."""
        pixels = self.pixels(places)
        return pixels[..., shown_channels(pixels.shape[-1])]

    @property
    def shown(self) -> str:
        """Which channels pictures show, in a sentence; empty if they show all."""
        return shown_in_words(self.images.images.shape[-1])

    def name_of(self, place: int) -> str:
        """The file of an image, or the name by which it is known, by its place in the view."""
        number, source = int(self.index[place]), self.images.source
        return source.name_of(number) if source else f"{self.split} {number}"

    @property
    def missing_classes(self) -> tuple[str, ...]:
        """Classes of the model that have no image here."""
        counts = np.bincount(self.labels, minlength=len(self.images.class_names))
        return tuple(name for name, count in zip(self.images.class_names, counts, strict=True) if not count)

    @property
    def notes(self) -> list[str]:
        """Remarks on these images, in sentences."""
        notes = [f"{note[0].upper()}{note[1:]}." for note in self.images.notes]
        if self.shown:
            notes.append(self.shown)
        if self.images.damaged:
            notes.append(f"{len(self.images.damaged):,} damaged images were left out.")
        if missing := self.missing_classes:
            total = len(self.images.class_names)
            notes.append(
                f"The {self.split} images are of {total - len(missing):,} of the {total:,} classes; there are none of "
                f"{first_of(missing, SHOWN)}."
            )
        return [self.doubt, *notes] if self.doubt else notes

    def identity(self) -> str:
        """sha256 of which images these are, in any folder; `digest` reads them as the model gets them."""
        digest = hashlib.sha256(self.images.contents.digest.encode())
        for numbers in (self.index, self.labels):
            digest.update(np.ascontiguousarray(numbers, "<i8").data)
        return digest.hexdigest()

    def digest(self) -> str:
        """sha256 of the images as the model gets them, in order, with their labels."""
        digest = hashlib.sha256(np.ascontiguousarray(self.labels, "<i8").data)
        for start in range(0, len(self.index), CHUNK):
            pixels = self.pixels(np.arange(start, min(start + CHUNK, len(self.index))))
            digest.update(np.ascontiguousarray(pixels).data)
        return digest.hexdigest()


def load_subject(path: Path) -> Subject:
    """The model of a checkpoint folder or a lone model file. Raises InputError if the file is foreign or damaged."""
    model, description = rebuild(path)
    return Subject(model.eval(), description)


# Work that is split among workers: takes the subject, a view, a device, the worker's rank and the number of workers,
# and returns the results (n, ...) of that worker's share, in order. It is pickled: a module's function or dataclass.
Work = Callable[[Subject, View, torch.device, int, int], np.ndarray]


def open_view(description: Description, split: str, data_dir: str | None = None, run: Path | None = None) -> View:
    """The test images, or the validation images of the split that the checkpoint was trained with.

    Args:
        description: Of the checkpoint; it says how images are read.
        split: test or val.
        data_dir: Where the data are, if not where the checkpoint says or, in its place, $VOLO_DATA_DIR. For test also
            any image folder with some of the classes, `data_dir/test/<class>/` or `data_dir/<class>/`, whatever the
            data set trained on.
        run: The checkpoint's run folder, whose record of its images names those that differ.

    Raises:
        InputError: data that are missing or have other classes, or no validation split.
        OtherImages: the validation images might be others than were held out, or even be trained on.
    """
    data = description.settings.data if data_dir else description.settings.data.here()
    in_bucket = data_dir is not None and is_in_bucket(data_dir)
    moved = None if data_dir is None or in_bucket else folder_to_read(data_dir, "--data-dir")
    place = data_dir if in_bucket else data.data_dir if moved is None else str(moved)
    if split == "val":
        return _open_val(description, place, data_dir, run)
    images = _open_elsewhere(description, moved) if moved else open_split(_moved(data, place), "test")
    images = _in_order(images, description.class_names, place)
    if not len(images.decoded):
        raise InputError(f"there must be images to analyze, got only damaged ones in {place}; fix them")
    doubt = _doubt(description, images, place, run)
    is_drawn = data.dataset == "shapes" and data_dir is None
    return View(images, images.decoded, split, data_dir, is_drawn, doubt)


def _doubt(description: Description, images: Images, place: str | None, run: Path | None) -> str:
    """Of class folders alone, the file names decide which are tested on. This says if other images have these names."""
    source = images.source
    if not (description.data_hash and isinstance(source, EncodedImages) and source.is_split_here):
        return ""
    contents = drawn_from(_moved(description.settings.data, place))
    try:
        check_images(
            description.data_hash, contents, run, rule="Test images may be among those trained on: the others must be "
            "those that the run started with", place=place, remedy="restore them",
        )  # fmt: skip
    except OtherImages as error:
        return f"{error}."
    return ""


def _open_val(description: Description, place: str | None, data_dir: str | None, run: Path | None) -> View:
    data = description.settings.data
    if not data.validates:
        raise InputError("split val needs a validation split, got a checkpoint trained with val_fraction=0; use test")
    if data.dataset == "shapes" and data_dir is not None:
        raise _shapes_do_not_move("val", place)
    images, parts = open_train(_moved(data, place), only_val=True)
    images = _in_order(images, description.class_names, place)
    remedy = "restore them, or name the folder that holds them with --data-dir; --split test does not need them"
    check_images(
        description.data_hash, images.contents, run, rule="to tell validation images from those trained on, the data "
        "must have the images that the run started with", place=place, remedy=remedy,
    )  # fmt: skip
    if parts.digest() != description.split_hash:
        raise OtherImages(f"the data must be split as they were for training, got other images in {place}; {remedy}")
    return View(images, parts.val, "val", data_dir, is_drawn=data.dataset == "shapes")


def open_validation(description: Description, data_dir: str | None, run: Path | None = None) -> View | None:
    """The validation images, from `data_dir` or from where the checkpoint says.

    None if there are none, if the data have moved, or if they have changed, which it prints.
    """
    if not description.settings.data.validates:
        return None
    refusal: InputError | None = None
    for place in dict.fromkeys((data_dir, None)):
        try:
            return open_view(description, "val", place, run)
        except InputError as error:
            refusal = error
    if isinstance(refusal, OtherImages):
        print(f"no validation images are used: {refusal}", flush=True)
    return None


def _open_elsewhere(description: Description, place: Path) -> Images:
    """The test images of another place: a labeled folder, or the checkpoint's own data set moved there."""
    data = description.settings.data
    folder = _labeled_folder(place, data.dataset, description.class_names)
    if folder and not (folder == place and _is_training_data(description, place)):
        source = LabeledFolder(folder, data.image_size, data.resize, data.crop_pct, data.in_chans)
        if folder == place:
            source.notes = (f"all {len(source.labels):,} images of {place} are taken for the test split",)
        source.say_passed_over()
        return cached(source, skip_damaged=data.skip_damaged)
    if data.dataset == "shapes":
        raise _shapes_do_not_move("test", place)
    return open_split(_moved(data, place), "test")


def _is_training_data(description: Description, place: Path) -> bool:
    """Whether a folder is the one that was trained on, even if images were added since, or a complete copy of it. Only
    images held out from training are analyzed there."""
    data = description.settings.data
    if data.dataset != "imagefolder":
        return False
    if str(place) in (data.data_dir, data.here().data_dir):
        return True
    moved = _moved(data, place)
    try:
        if description.data_hash:
            return drawn_from(moved).digest == description.data_hash
        split = open_train(moved)[1] if data.skip_damaged else split_of(open_source(moved, "train"), moved)
    except InputError:
        return False
    return split.digest() == description.split_hash


def _moved(data: ResolvedData, place: Path | str | None) -> ResolvedData:
    return data.model_copy(update=dict(data_dir=None if place is None else str(place)))


def _shapes_do_not_move(split: str, place: Path | str | None) -> InputError:
    return InputError(
        "for shapes, which are drawn, data_dir must be an image folder with their classes, and split test, "
        f"got {split} in {str(place)!r}; leave data_dir out"
    )


def _labeled_folder(place: Path, dataset: str, class_names: tuple[str, ...]) -> Path | None:
    """The folder that holds class folders, or None if the data set's own reader decides."""
    if has_table(place) or has_tars(place):
        return None
    try:
        folders = {Path(folder).name for folder in find_folders(place)[0]}
    except InputError:
        return None
    if "test" in folders or ("train" in folders and dataset != "imagefolder"):
        return place / "test"
    if "train" in folders:
        return None
    is_image_folder = folders and dataset in ("imagefolder", "shapes")
    return place if is_image_folder or {*map(plain, folders)} & {*map(plain, class_names)} else None


def _in_order(images: Images, class_names: tuple[str, ...], place: Path | str | None) -> Images:
    """The same images with the classes in the checkpoint's order, some of which may have none. Raises InputError for
    other classes."""
    if images.class_names == class_names:
        return images
    if others := extra(images.class_names, class_names):
        raise InputError(
            f"the data must have no classes besides the checkpoint's {len(class_names)}, got {len(others)} of "
            f"{len(images.class_names)} in {place} that it lacks: {quoted(others, class_names)}; remove their "
            "folders"
        )
    order = np.array(places(images.class_names, class_names))
    return replace(images, labels=order[images.labels], class_names=class_names, coarse=None)


def with_progress(batches: Iterable[Batch], title: str, num_images: int) -> Iterator[Batch]:
    """The same batches, (b, ...) images and (b,) of anything; shows how many of the images are done."""
    done = 0
    with Progress(title, num_images, "images") as progress:
        for batch in batches:
            yield batch
            progress.update(done := done + len(batch[0]))


@torch.inference_mode()
def compute_outputs(
    subject: Subject, view: View, device: torch.device, rank: int = 0, world_size: int = 1
) -> np.ndarray:
    """(n, classes + num_features) float32, for this worker's share of the view: logits, then the features that the
    head reads."""
    data = subject.description.settings.data
    model = subject.model.to(device)
    pixels = Pixels(view.images, data.mean, data.std, device)
    size = evaluation_batch_size(device)
    batches = evaluation_batches(view.images, view.index, pixels, batch_size=size, rank=rank, world_size=world_size)
    first, last = worker_share(0, len(view.index), rank, world_size)
    shown = with_progress(batches, f"evaluating {view.split}", last - first)
    outputs = [_outputs(model, images).cpu().numpy() for images, _ in shown]
    width = len(subject.description.class_names) + model.num_features
    return np.concatenate(outputs) if outputs else np.zeros((0, width), np.float32)


def _outputs(model: AnyVOLO, images: Tensor) -> Tensor:
    features: Any = model.forward_features(images)  # each form takes its own
    return torch.cat([model.forward_head(features), model.forward_head(features, pre_logits=True)], dim=1).float()
