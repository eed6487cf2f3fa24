"""The folder of an analysis: its results are written to a staging folder and renamed into place once complete.

    analysis.json    `of`: what was analyzed and how; `files`: sha256 of each result; renamed into place last

An earlier analysis stays unchanged until then. Files that do not belong to an analysis are never touched.
"""

import contextlib
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from volo.analysis.report import PAGE
from volo.errors import InputError
from volo.files import abandoned, partial_of, remove, sync

MANIFEST = "analysis.json"
METRICS = "eval_metrics.json"
RESULTS = (
    METRICS, "localisation.json", "confusion_matrix.npy", "confusion_matrix.png", "calibration_stats.npz",
    "reliability_before.png", "reliability_after.png", "gradcam.pt", "gradcam_overlay.png", "occlusion_heatmap.pt",
    "occlusion_heatmap.png", "predictions_grid.png", "learning_curves.png", PAGE,
)  # fmt: skip
ASIDE = "analysis"


def is_finished(output_dir: Path, of: dict[str, Any]) -> bool:
    """Whether the complete results of this analysis are there."""
    _finish_placing(output_dir)
    manifest = _read(output_dir)
    try:
        return manifest["of"] == of and all(
            sha256(output_dir / name) == digest for name, digest in manifest["files"].items()
        )
    except (KeyError, TypeError, AttributeError, OSError):
        return False


@contextlib.contextmanager
def made_aside(output_dir: Path, of: dict[str, Any]) -> Iterator[Path]:
    """Yields an empty folder whose contents replace an earlier analysis at the end.

    After an error the folder is deleted and nothing is replaced. After a kill the next analysis cleans up: it deletes
    an incomplete folder and finishes moving a complete one.

    Raises:
        InputError: a folder that cannot be written.
    """
    is_new = not output_dir.exists()
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
        _finish_placing(output_dir)
        folder = partial_of(output_dir / ASIDE)
        folder.mkdir()
    except OSError as error:
        raise InputError(f"--output-dir must be a folder that can be written, got {output_dir} ({error})") from None
    try:
        yield folder
        files = {path.name: sha256(path) for path in sorted(folder.iterdir())}
        (folder / MANIFEST).write_text(json.dumps({"of": of, "files": files}, indent=1) + "\n")
        for path in (*folder.iterdir(), folder):
            sync(path)
    except BaseException:
        remove(folder)
        if is_new:
            with contextlib.suppress(OSError):  # it holds something
                output_dir.rmdir()
        raise
    _place(folder, output_dir)
    remove(folder)


def sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _place(folder: Path, output_dir: Path) -> None:
    """Moves complete results into place and deletes results of an earlier analysis that this one lacks.

    The page is moved second to last and the manifest last: without a manifest no analysis counts as finished.
    """
    new = _read(folder)["files"]
    (output_dir / MANIFEST).unlink(missing_ok=True)
    for name in sorted({*RESULTS} - {*new}):
        (output_dir / name).unlink(missing_ok=True)
    for name in (*sorted(new, key=lambda name: name == PAGE), MANIFEST):
        if (folder / name).exists():  # not yet moved by a process that was killed
            (folder / name).rename(output_dir / name)
    sync(output_dir)


def _finish_placing(output_dir: Path) -> None:
    """Finishes moving what a killed process had completed, and deletes the rest."""
    for folder in abandoned(output_dir, f"{ASIDE}."):
        if _read(folder) is not None:
            _place(folder, output_dir)
        remove(folder)


def _read(folder: Path) -> Any:
    """The manifest of a folder, or None if it is missing or incomplete."""
    try:
        return json.loads((folder / MANIFEST).read_text())
    except (OSError, ValueError):
        return None
