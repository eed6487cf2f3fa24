"""Unlabelled images: found in folders, read, and given to a model."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch

from volo.analysis.classifier import TOP_K, ranked
from volo.analysis.subject import Subject
from volo.data.augment import normalise
from volo.data.imagefolder import read_image, readable_suffixes
from volo.errors import InputError

# What became of an image: its likeliest classes with their probabilities, or why it could not be read.
Result = list[tuple[int, float]] | str


class ImageFile(NamedTuple):
    """`name` is the path as --input leads to it; `size` is -1 where there is nothing, as behind a dead link."""

    name: str
    size: int
    mtime_ns: int

    @property
    def path(self) -> str:
        return os.path.abspath(self.name)


def list_images(inputs: Sequence[str]) -> list[ImageFile]:
    """The images that files and folders hold, each once, sorted by name.

    Of a folder, at any depth and through links, all that have the suffix of a format Pillow reads, but for hidden ones;
    a file that is named itself is taken as it is.

    Raises:
        InputError: an input that is not there or cannot be listed, or no image at all.
    """
    found: dict[str, ImageFile] = {}
    for given in map(os.path.expanduser, inputs):
        is_folder = os.path.isdir(given)
        if not is_folder and not _is_file_or_dead_link(given):
            what = "which is neither" if os.path.exists(given) else "which does not exist"
            raise InputError(f"--input must name files or folders, got {given!r}, {what}")
        for name in _walk(given) if is_folder else [given]:
            image = _described(name)
            found.setdefault(image.path, image)
    if not found:
        raise InputError(
            f"--input must hold an image of a format Pillow reads, got none in {', '.join(inputs)}; name another "
            "folder, or the files themselves where their names have no such suffix"
        )
    return sorted(found.values())


def digest_of(files: Sequence[ImageFile]) -> str:
    """sha256 of their names, sizes and times of change."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.name}\0{file.size}\0{file.mtime_ns}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


@torch.inference_mode()
def predict_files(subject: Subject, paths: Sequence[str], device: torch.device, batch_size: int) -> list[Result]:
    """The TOP_K likeliest classes of each image, or why it could not be read, in their order.

    Reading goes on in threads while the model computes.

    Raises:
        InputError: logits that are not finite, which the weights must be to blame for.
    """
    data = subject.description.settings.data
    model = subject.model.to(device)
    mean, std = torch.tensor(data.mean, device=device), torch.tensor(data.std, device=device)
    results: list[Result] = [""] * len(paths)

    def read(path: str) -> np.ndarray | str:
        try:
            return read_image(path, data.image_size, data.resize)
        except InputError as error:
            return str(error.__cause__) or type(error.__cause__).__name__

    def compute(places: list[int], pixels: list[np.ndarray]) -> None:
        images = torch.from_numpy(np.stack(pixels)).to(device)  # (b, H, W, 3)
        logits = model(normalise(images, mean, std)).float().cpu().numpy()
        if not np.isfinite(logits).all():
            raise InputError(f"logits must be finite, got others for {paths[places[0]]}; use an earlier checkpoint")
        for place, classes, probabilities in zip(places, *ranked(logits, TOP_K), strict=True):
            results[place] = list(zip(classes.tolist(), probabilities.tolist(), strict=True))

    places, pixels = [], []
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        for place, image in enumerate(pool.map(read, paths)):
            if isinstance(image, str):
                results[place] = image
                continue
            places.append(place)
            pixels.append(image)
            if len(places) == batch_size:
                compute(places, pixels)
                places, pixels = [], []
    if places:
        compute(places, pixels)
    return results


def _walk(root: str) -> Iterator[str]:
    readable = readable_suffixes()
    seen: set[str] = set()

    def refuse(error: OSError) -> None:
        raise InputError(f"--input must be readable, got {error.filename} ({error.strerror})") from None

    for folder, inner, names in os.walk(root, onerror=refuse, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:  # a link back up
            inner.clear()
            continue
        seen.add(real)
        inner[:] = sorted(name for name in inner if not name.startswith("."))
        for name in names:
            path = os.path.join(folder, name)
            is_image = os.path.splitext(name)[1].lower() in readable and not name.startswith(".")
            if is_image and _is_file_or_dead_link(path):
                yield path


def _is_file_or_dead_link(path: str) -> bool:
    """No pipe or socket, which reading would wait for. A dead link counts, so as to be listed as unreadable."""
    return os.path.isfile(path) or (os.path.islink(path) and not os.path.exists(path))


def _described(name: str) -> ImageFile:
    try:
        stat = os.stat(name)
        return ImageFile(name, stat.st_size, stat.st_mtime_ns)
    except OSError:
        return ImageFile(name, -1, 0)
