"""Unlabeled images: found in folders, read, and passed to a model."""

import hashlib
import itertools
import os
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from volo.analysis.classifier import TOP_K, check_finite, ranked
from volo.analysis.subject import Subject
from volo.data.augment import normalize
from volo.data.folders.listing import Identity, ImageFile, Listing, find_images
from volo.data.folders.passed_over import PassedOver
from volo.data.folders.readers import read_images
from volo.errors import InputError, brief
from volo.settings.paths import path_to_read

# Result for an image: its most likely classes with their probabilities, or why it could not be read.
Result = list[tuple[int, float]] | str


def list_images(inputs: Sequence[str]) -> Listing:
    """The images in files and folders, each once, sorted by name, and what was skipped in the folders.

    Folders are read as in training (volo/data/folders/listing.py); a file given by name is always included.

    Raises:
        InputError: an input that does not exist or cannot be listed, or no image at all.
    """
    found: dict[str, ImageFile] = {}
    passed_over = PassedOver()
    folders: set[Identity] = set()
    for given in (os.path.expanduser(path) for path in inputs if path_to_read(path, "--input")):
        listing = find_images(given, folders) if os.path.isdir(given) else _named(given)
        passed_over.add(listing.passed_over)
        for image in listing.files:
            found.setdefault(image.path, image)
    if not found:
        but = f" but {passed_over.in_words()}" if passed_over else ""
        remedy = passed_over.remedy() or "name another folder, or the files themselves"
        raise InputError(
            f"--input must hold an image of a format Pillow reads, got none in {', '.join(inputs)}{but}; {remedy}"
        )
    return Listing(sorted(found.values()), passed_over)


def _named(given: str) -> Listing:
    if _is_file_or_dead_link(given):
        return Listing([_described(given)])
    what = "which is neither" if os.path.exists(given) else "which does not exist"
    raise InputError(f"--input must name files or folders, got {brief(given)}, {what}")


def digest_of(files: Sequence[ImageFile]) -> str:
    """sha256 of their names, sizes and times of change."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.name}\0{file.size}\0{file.changed_ns}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


@torch.inference_mode()
def predictions(subject: Subject, paths: Sequence[str], device: torch.device, batch_size: int) -> Iterator[Result]:
    """The TOP_K most likely classes of each image, or why it could not be read, in the order of `paths`. Other
    processes read images while the model computes.

    Raises:
        InputError: logits that are not finite, because of the weights.
    """
    data = subject.description.settings.data
    model = subject.model.to(device)
    mean, std = torch.tensor(data.mean, device=device), torch.tensor(data.std, device=device)
    read = read_images(paths, data.image_size, data.resize, torch.get_num_threads(), data.crop_pct, data.in_chans)
    pairs = zip(paths, read, strict=True)
    while batch := list(itertools.islice(pairs, batch_size)):
        intact = [(path, image) for path, image in batch if not isinstance(image, str)]
        found: Iterator[Result] = iter(())
        if intact:
            images = torch.from_numpy(np.stack([image for _, image in intact])).to(device)  # (b, H, W, in_chans)
            logits = model(normalize(images, mean, std)).float().cpu().numpy()
            check_finite(logits, intact[0][0])
            found = map(_paired, *ranked(logits / np.float32(subject.temperature), TOP_K))
        yield from [image if isinstance(image, str) else next(found) for _, image in batch]


def _paired(classes: np.ndarray, probabilities: np.ndarray) -> Result:
    return list(zip(classes.tolist(), probabilities.tolist(), strict=True))


def _is_file_or_dead_link(path: str) -> bool:
    """Excludes pipes and sockets, which would block. A dead link counts and is listed as unreadable."""
    return os.path.isfile(path) or (os.path.islink(path) and not os.path.exists(path))


def _described(name: str) -> ImageFile:
    try:
        stat = os.stat(name)
        return ImageFile(name, stat.st_size, stat.st_ctime_ns)
    except OSError:
        return ImageFile(name, -1, 0)
