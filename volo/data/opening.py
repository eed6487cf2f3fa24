"""Opens what `--data-dir` names: an image folder, with an index or without, packed images, or tars."""

from collections.abc import Callable
from pathlib import Path

from volo.data.folders.encoded import EncodedImages
from volo.data.folders.imagefolder import ImageFolder
from volo.data.packed import is_indexed, is_packed
from volo.data.tars.layout import has_tars
from volo.settings.data import RGB


def open_folder(
    place: Path | str,
    split: str,
    image_size: int,
    resize: str = "crop",
    crop_pct: float = 1.0,
    in_chans: int = RGB,
) -> EncodedImages:
    """The split `train` or `test` of what lies in a folder, or, packed, at a place on object storage.

    Raises:
        InputError: as `ImageFolder`, `IndexedFolder`, `PackedFolder` and `TarFolder`.
    """
    kind: Callable[..., EncodedImages] = ImageFolder
    if isinstance(place, str) or is_packed(place):
        from volo.data.packed.source import PackedFolder  # its library takes time to load

        kind = PackedFolder
    elif is_indexed(place):
        from volo.data.packed.in_place import IndexedFolder  # as above

        kind = IndexedFolder
    elif has_tars(place):
        from volo.data.tars.source import TarFolder  # as above

        kind = TarFolder
    return kind(place, split, image_size, resize, crop_pct, in_chans)
