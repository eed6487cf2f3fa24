"""The size to train on if nobody names one: by the photographs, and with it the patches of a small model.

The size is the largest of volo/data/folders/judging.py's that half of the images reach. Models made for 32 pixels get
patches as much larger, in powers of two, and a narrow first level before their stem, where most of the work would lie
otherwise.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from volo.data.folders.judging import evenly_spaced, fitting_size
from volo.data.folders.layout import find_layout
from volo.data.folders.listing import find_folders, find_images
from volo.data.folders.parts import Part
from volo.data.folders.table import has_table
from volo.data.opening import open_folder
from volo.data.packed import is_indexed, is_packed
from volo.data.tars.layout import has_tars
from volo.settings.buckets import is_in_bucket
from volo.settings.model import ModelSettings
from volo.settings.paths import folder_to_read

NUM_CLASSES = 8  # whose images are looked at
MADE_FOR = 32  # pixels
NARROW = 16  # channels


def chosen_size(data_dir: str) -> int | None:
    """The size for an image folder, a packed one or tars; None without a readable image.

    Raises:
        InputError: a folder without class folders.
    """
    if is_in_bucket(data_dir):
        return fitting_size(_some_files(data_dir))
    folder = folder_to_read(data_dir, "--data-dir")
    return fitting_size(_some_files(folder)) if folder.is_dir() else None


def geometry(model: ModelSettings, image_size: int) -> dict[str, Any]:
    """Settings with which a model that was made for 32 pixels sees larger images as a map of about that size."""
    factor = 1 << max(0, (image_size // MADE_FOR).bit_length() - 1)
    full: Any = model.resolved()
    if factor == 1 or model.form == "published":
        return {}
    return dict(patch_size=full.patch_size * factor, stem_channels=(NARROW, *full.stem_channels))


def _some_files(folder: Path | str) -> Sequence[str | Part]:
    """Of a folder, or a place on object storage."""
    if isinstance(folder, str) or any(kind(folder) for kind in (is_packed, is_indexed, has_table, has_tars)):
        return open_folder(folder, "train", MADE_FOR).some_files()
    classes = find_folders(find_layout(folder).train)[0]
    files: list[str] = []
    for number in evenly_spaced(len(classes), NUM_CLASSES):
        files += [file.name for file in find_images(classes[number]).files]
    return [files[number] for number in evenly_spaced(len(files))]
