"""Packed images on object storage: a node keeps as many shards as its disk has room for, and reads the rest in parts.

    <cache>/packed/<of the place>/<of the index>/index.arrow, shard-00000.tar ...

The index comes first, as a whole. Shards come while training goes on, each once per node; one that is not there yet, or
has no room, is read an image at a time. So the first step waits for no download, and data may be larger than a disk.
"""

import contextlib
import os
import shutil
import threading
from collections.abc import Sequence
from pathlib import Path

from filelock import Timeout

from volo.cache import OTHER_PLACE, place_of_copies
from volo.data.packed import FILE
from volo.errors import InputError
from volo.files import abandoned, free_bytes, remove, replaced
from volo.locks import take, waited_for
from volo.log import LOGGER
from volo.settings.paths import shown
from volo.storage.bucket import CHECK_S, Bucket

LIMIT = "VOLO_SHARD_CACHE_GB"  # of the shards that a node keeps; 0: none
SPARED = 0.1  # of the disk, which shards leave free

_keeping: set[str] = set()  # the places whose shards this process fetches, or has


def local_index(url: str) -> Path:
    """The folder on this node that holds the index of packed images at a place, and shards as they come.

    Raises:
        InputError: no packed images there, or the place cannot be read.
    """
    check_limit()
    bucket = Bucket(url, CHECK_S)
    try:
        version = bucket.stat(FILE).etag.strip('"')
    except FileNotFoundError:
        raise InputError(
            f"--data-dir on object storage must hold packed images, got no {FILE} at {shown(url)}; make them with volo "
            "pack, and copy the folder there"
        ) from None
    except OSError as error:
        raise InputError(f"--data-dir must be a place that can be read, got {shown(url)}: {error.strerror}") from None
    folder = place_of_copies("packed", url) / "".join(letter for letter in version if letter.isalnum())
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with waited_for(folder / ".lock", f"fetching the index of {url}", OTHER_PLACE, lambda: None):
            if not (folder / FILE).exists():
                _remove_older(folder)
                with replaced(folder / FILE) as partial:
                    bucket.fetch(FILE, partial)
    except OSError as error:
        raise InputError(
            f"the index of {shown(url)} must fit into the cache, got {folder} ({error.strerror or error}); "
            f"{OTHER_PLACE}"
        ) from None
    return folder


def _remove_older(folder: Path) -> None:
    """Removes what was kept of an earlier version of the data."""
    for other in folder.parent.iterdir():
        if other != folder:
            remove(other)


class Shards:
    """Where the shards of a place are: kept on this node, or still to be read there."""

    def __init__(self, url: str, folder: Path, files: Sequence[tuple[str, int]]):
        self.url, self.folder, self.files = url, folder, files
        self._bucket = Bucket(url)

    def sizes(self) -> dict[str, int]:
        """Of the objects at the place."""
        return {name: stat.size for name, stat in Bucket(self.url, CHECK_S).names().items()}

    def address(self, file: str) -> str:
        """Where a shard can be read in parts, for about an hour; empty once it is kept here.

        The first call has shards fetched, in a thread.
        """
        if (self.folder / file).exists():
            return ""
        if self.url not in _keeping:
            _keeping.add(self.url)
            threading.Thread(target=self._keep, name="shards", daemon=True).start()
        return self._bucket.address(file)

    def _keep(self) -> None:
        """Fetches shards one after the other, other than those that another process of this node is fetching."""
        for left in abandoned(self.folder):
            remove(left)
        for file, num_bytes in self.files:
            if (self.folder / file).exists():
                continue
            if not self._has_room(num_bytes):
                LOGGER.info(f"{self.folder} keeps no more shards of {self.url}; the others are read there ({LIMIT})")
                return
            with contextlib.suppress(Timeout, OSError, InputError):
                self._fetch(file)

    def _fetch(self, file: str) -> None:
        """Raises Timeout if another process fetches it."""
        lock = take(self.folder / f".{file}.lock", 0, OTHER_PLACE)
        try:
            if not (self.folder / file).exists():
                with replaced(self.folder / file) as partial:
                    self._bucket.fetch(file, partial)
        finally:
            lock.release()

    def _has_room(self, num_bytes: int) -> bool:
        limit = os.environ.get(LIMIT, "")
        if limit:
            kept = sum(path.stat().st_size for path in self.folder.glob("*.tar"))
            if kept + num_bytes > float(limit) * 1e9:
                return False
        return free_bytes(self.folder) - num_bytes > SPARED * shutil.disk_usage(self.folder).total


def check_limit() -> None:
    """Raises InputError for a value of LIMIT that is no number of gigabytes."""
    limit = os.environ.get(LIMIT, "")
    try:
        is_number = not limit or 0 <= float(limit) < float("inf")
    except ValueError:
        is_number = False
    if not is_number:
        raise InputError(f"{LIMIT} must be a number of gigabytes, 0 or more, got {shown(limit)}; correct it")
