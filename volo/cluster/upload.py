"""What `ray job submit --working-dir .` would send: counted by Ray's own functions, which are private to it."""

import logging
import os
from pathlib import Path

from ray._private.ray_constants import RAY_RUNTIME_ENV_IGNORE_GITIGNORE, get_runtime_env_default_excludes
from ray._private.runtime_env.packaging import GCS_STORAGE_MAX_SIZE, _dir_travel, _get_excludes

from volo.console import format_bytes
from volo.doctor.findings import Finding, failure, ok, warning

LARGE = 2**26  # bytes; every job sends them
MAX_FILES = 100_000
REMEDY = "submit from the project's folder, or name what is not needed in .rayignore"
_SILENT = logging.getLogger(f"{__name__}.files")
_SILENT.setLevel(logging.CRITICAL + 1)


class _Enough(Exception):
    pass


def check_upload(folder: Path, is_needed: bool) -> Finding:
    """What `ray job submit --working-dir .` would send of a folder, by Ray's own rules, against Ray's limit."""
    size, num_files, is_all = upload_size(folder)
    found = f"{'' if is_all else 'at least '}{format_bytes(size)} in {num_files:,} files from {folder}"
    if is_all:
        return warning("upload", found, REMEDY) if size > LARGE else ok("upload", found)
    say = failure if is_needed else warning
    return say("upload", f"{found}, where Ray sends up to {format_bytes(GCS_STORAGE_MAX_SIZE)}", REMEDY)


def upload_size(folder: Path, limit: int = GCS_STORAGE_MAX_SIZE, max_files: int = MAX_FILES) -> tuple[int, int, bool]:
    """Bytes and files that a job's working directory would hold, and whether that is all: at the limit, or at
    `max_files`, counting ends. Ray packs without compressing, and heeds .gitignore unless its variable forbids it."""
    size = num_files = 0

    def count(path: Path) -> None:
        nonlocal size, num_files
        if path.is_file():
            size, num_files = size + path.stat().st_size, num_files + 1
            if size >= limit or num_files >= max_files:
                raise _Enough

    heeds_gitignore = os.environ.get(RAY_RUNTIME_ENV_IGNORE_GITIGNORE, "0") != "1"
    excludes = [_get_excludes(folder, get_runtime_env_default_excludes())]
    try:
        _dir_travel(folder, excludes, count, include_gitignore=heeds_gitignore, logger=_SILENT)
    except _Enough:
        return size, num_files, False
    return size, num_files, True
