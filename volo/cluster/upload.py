"""What `ray job submit --working-dir .` would send: by Ray's documented rules, read with `pathspec` as Ray does."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from pathspec import GitIgnoreSpec

from volo.console import format_bytes
from volo.doctor.findings import Finding, failure, ok, warning

LARGE = 2**26  # bytes; every job sends them
LIMIT = 512 * 2**20  # bytes
LIMIT_VARIABLE = "RAY_max_grpc_message_size"
MAX_FILES = 100_000
REMEDY = "submit from the project's folder, or list unneeded files in .rayignore"
ALWAYS_EXCLUDED = ".git,.venv,venv,__pycache__"
Excludes = Callable[[Path], bool]


def check_upload(folder: Path, is_needed: bool) -> Finding:
    """What `ray job submit --working-dir .` would send of a folder, compared with Ray's limit."""
    size, num_files, is_all = upload_size(folder, _limit())
    found = f"{'' if is_all else 'at least '}{format_bytes(size)} in {num_files:,} files from {folder}"
    if is_all:
        return warning("upload", found, REMEDY) if size > LARGE else ok("upload", found)
    say = failure if is_needed else warning
    return say("upload", f"{found}, where Ray sends up to {format_bytes(_limit())}", REMEDY)


def upload_size(folder: Path, limit: int = LIMIT, max_files: int = MAX_FILES) -> tuple[int, int, bool]:
    """Bytes and files in a job's working directory, and whether that is all: counting ends at `limit` bytes or
    `max_files` files. Ray packs without compressing."""
    size = num_files = 0
    excludes = _spec(folder, os.environ.get("RAY_OVERRIDE_RUNTIME_ENV_DEFAULT_EXCLUDES", ALWAYS_EXCLUDED).split(","))
    for path in _sent(folder, [excludes]):
        size, num_files = size + path.stat().st_size, num_files + 1
        if size >= limit or num_files >= max_files:
            return size, num_files, False
    return size, num_files, True


def _sent(folder: Path, excludes: list[Excludes]) -> Iterator[Path]:
    """The files below a folder that Ray would pack; a folder's own ignore files hold for all that lies below it."""
    excludes = excludes + [_spec(folder, file.read_text().splitlines()) for file in _ignore_files(folder)]
    for path in sorted(folder.iterdir()):
        if any(is_excluded(path) for is_excluded in excludes):
            continue
        if path.is_dir():
            yield from _sent(path, excludes)
        elif path.is_file():
            yield path


def _ignore_files(folder: Path) -> list[Path]:
    heeds_gitignore = os.environ.get("RAY_RUNTIME_ENV_IGNORE_GITIGNORE", "0") != "1"
    names = [".gitignore", ".rayignore"] if heeds_gitignore else [".rayignore"]
    return [path for name in names if (path := folder / name).is_file()]


def _spec(folder: Path, patterns: list[str]) -> Excludes:
    spec = GitIgnoreSpec.from_lines(pattern.strip() for pattern in patterns)
    return lambda path: spec.match_file(path.relative_to(folder))


def _limit() -> int:
    return int(os.environ.get(LIMIT_VARIABLE, LIMIT))
