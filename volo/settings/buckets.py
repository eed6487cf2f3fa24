"""Places on object storage as users name them, s3://BUCKET/PATH, judged by their text alone."""

import re

from volo.errors import InputError
from volo.settings.paths import check_path, folder_to_read, path_to_read, shown

SCHEMES = ("s3", "gs", "az")  # Amazon S3 and what speaks its protocol, Google Cloud Storage, Azure Blob Storage
FORM = re.compile(rf"(?:{'|'.join(SCHEMES)})://[a-z0-9][a-z0-9._-]*(?:/[\w.+=@-]+)*")
MAX_LENGTH = 700  # bytes; S3 allows 1,024, of which what a run holds needs some
STARTS = tuple(f"{scheme}://" for scheme in SCHEMES)


def is_in_bucket(text: str) -> bool:
    """Whether a text that was checked names a place on object storage."""
    return text.startswith(STARTS)


def check_place(text: str, name: str) -> str:
    """Returns `text`, a path or a place on object storage, the latter without a slash at its end.

    Args:
        name: The setting or flag that it was given to.

    Raises:
        InputError: it can be neither.
    """
    if not is_in_bucket(text):
        return check_path(text, name, f"only {', '.join(STARTS)} are known")
    place = text.rstrip("/")
    if not FORM.fullmatch(place) or {".", ".."} & {*place.split("/")} or len(place.encode()) > MAX_LENGTH:
        raise InputError(
            f"{name} must be a path, or {text.split(':')[0]}://BUCKET/PATH in letters, digits and . _ + = @ - (at most "
            f"{MAX_LENGTH} bytes), got {shown(text)}; correct it"
        )
    return place


def place_to_read(place: str, name: str) -> None:
    """Raises InputError as `check_place`, and for a path that this user cannot reach; asks no server."""
    if not is_in_bucket(check_place(place, name)):
        path_to_read(place, name)


def folder_or_place(place: str, name: str) -> None:
    """As `place_to_read`. Raises InputError also for a file."""
    if not is_in_bucket(check_place(place, name)):
        folder_to_read(place, name)
