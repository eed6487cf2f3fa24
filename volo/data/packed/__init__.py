"""Images with an index: packed into a few large files, or an image folder's own where they are, by `volo pack`."""

from pathlib import Path

FILE = "index.arrow"
IN_PLACE = "volo-index.arrow"


def is_packed(folder: Path) -> bool:
    return (folder / FILE).is_file()


def is_indexed(folder: Path) -> bool:
    """Whether an image folder has an index of its own files."""
    return (folder / IN_PLACE).is_file()
