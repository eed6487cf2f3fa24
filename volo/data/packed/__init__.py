"""Images packed into a few large files with an index, as `volo pack` makes them."""

from pathlib import Path

FILE = "index.arrow"


def is_packed(folder: Path) -> bool:
    return (folder / FILE).is_file()
