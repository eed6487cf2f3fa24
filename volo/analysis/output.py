"""The folder of an analysis: its results are written to a staging folder and put in place once complete.

    analysis.json     `of`: what was analyzed and how; `files`: sha256 of each result
    .analysis.lock    held by the process that writes to the folder

An earlier analysis stays unchanged until then, and is replaced as a whole: the folders exchange their names. Files that
do not belong to an analysis are never touched. A folder that holds some therefore keeps its name, and the results are
renamed into it one by one, the manifest last; if that is interrupted, the next analysis completes it.
"""

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import Timeout

from volo.analysis.report import PAGE
from volo.errors import InputError, writing
from volo.files import abandoned, exchange, partial_of, remove, sync, write_synced
from volo.locks import LOOK_S, take
from volo.runs.checkpoint import MODEL
from volo.runs.copies import run_place
from volo.runs.places import CONFIG
from volo.settings.buckets import is_in_bucket
from volo.settings.paths import local_path
from volo.storage.bucket import Bucket

MANIFEST, LOCK = "analysis.json", ".analysis.lock"
METRICS = "eval_metrics.json"
RESULTS = (
    METRICS, "localisation.json", "confusion_matrix.npy", "confusion_matrix.png", "calibration_stats.npz",
    "reliability_before.png", "reliability_after.png", "gradcam.pt", "gradcam_overlay.png", "occlusion_heatmap.pt",
    "occlusion_heatmap.png", "predictions_grid.png", "predictions.csv", "near_duplicates.csv", "learning_curves.png",
    PAGE,
)  # fmt: skip
OWN = (*RESULTS, MANIFEST, LOCK)
ASIDE = "analysis"
OF_FILES = Path("./outputs/volo_inference")  # holds the analyses of model files that lie in no run folder


def default_folder(path: Path, asked: str, split: str, data_dir: str | None) -> Path:
    """The folder for the results of a checkpoint on these images, if the user names none.

    It is `analysis` in the run folder for the run's best checkpoint on the test images; otherwise the name also says
    which checkpoint, split and data. Of a model file elsewhere it is in OF_FILES.

    Args:
        path: A checkpoint folder or a lone model file.
        asked: The path that the user gave for it.
    """
    place = path.parent if path.is_file() else path
    run_dir = place.parent.parent
    if place.parent.name == "checkpoints" and (run_dir / CONFIG).exists():
        is_best = local_path(asked, "--checkpoint") in (run_dir, run_dir / "best")
        folder, words = run_dir, ["analysis"] if is_best else ["analysis", place.name]
    else:
        folder, words = OF_FILES, [path.stem, sha256(weights_of(path))[:8]]
    words += [split] if split != "test" else []
    if data_dir is not None:
        moved = data_dir if is_in_bucket(data_dir) else str(local_path(data_dir, "--data-dir"))
        words += [moved.rpartition("/")[2], hashlib.sha256(os.fsencode(moved)).hexdigest()[:8]]
    return folder / "-".join(words)


def is_finished(output_dir: Path, of: dict[str, Any]) -> bool:
    """Whether the complete results of this analysis are there."""
    manifest = _read(output_dir)
    try:
        return manifest["of"] == of and all(
            sha256(output_dir / name) == digest for name, digest in manifest["files"].items()
        )
    except (KeyError, TypeError, AttributeError, OSError):
        return False


@contextlib.contextmanager
def held(output_dir: Path) -> Iterator[None]:
    """Holds the folder for this process, and first cleans up after a killed one: deletes an incomplete analysis, or
    finishes moving a complete one. A new folder that gets no results is deleted again.

    Raises:
        InputError: a folder that another process holds, or that cannot be written.
        InferenceError: the disk refused a file of the folder.
    """
    is_new = not output_dir.exists()
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
        lock = take(output_dir / LOCK, LOOK_S, "use another --output-dir")
    except Timeout:
        raise InputError(
            f"{output_dir} is being written by another analysis; wait for it or use another --output-dir"
        ) from None
    except OSError as error:
        raise InputError(f"--output-dir must be a folder that can be written, got {output_dir} ({error})") from None
    try:
        with _refusals_named(output_dir):
            _finish_placing(output_dir)
            yield
    finally:
        with contextlib.suppress(OSError):
            if is_new and {*os.listdir(output_dir)} <= {LOCK}:
                remove(output_dir)
        lock.release()


@contextlib.contextmanager
def made_aside(output_dir: Path, of: dict[str, Any]) -> Iterator[Path]:
    """Yields an empty folder whose contents replace an earlier analysis at the end. After an error it is deleted and
    nothing is replaced. The caller must hold `output_dir`."""
    folder = partial_of(output_dir / ASIDE)
    folder.mkdir()
    try:
        yield folder
        files = {path.name: sha256(path) for path in sorted(folder.iterdir())}
        write_synced(folder / MANIFEST, f"{json.dumps({'of': of, 'files': files}, indent=1)}\n".encode())
        for path in (*folder.iterdir(), folder):
            sync(path)
    except BaseException:
        remove(folder)
        raise
    _place(folder, output_dir)


def take_results(output_dir: Path, place: str) -> str:
    """Takes a complete analysis, in the copy of a run, to the run's place on object storage, the manifest last.

    Args:
        place: What was analyzed, on object storage.

    Returns:
        Where the results are then. Objects there that do not belong to an analysis stay.

    Raises:
        InferenceError: they cannot be written.
    """
    there = f"{run_place(place)}/{output_dir.name}"
    files = _read(output_dir)["files"]
    with writing("the analysis", output_dir, kept=f"it is complete in {output_dir}; "):
        bucket = Bucket(there)
        bucket.delete([MANIFEST, *sorted({*RESULTS} - {*files})])
        for name in (*files, MANIFEST):
            bucket.write(name, output_dir / name)
    return there


def sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def weights_of(path: Path) -> Path:
    return path / MODEL if path.is_dir() else path


@contextlib.contextmanager
def _refusals_named(output_dir: Path) -> Iterator[None]:
    """Turns a disk error at a file of the folder into an InferenceError; one at the images, say, stays what it is."""
    try:
        yield
    except OSError as error:
        if not Path(os.fsdecode(error.filename or "")).is_relative_to(output_dir):
            raise
        with writing("the analysis", output_dir):
            raise


def _place(folder: Path, output_dir: Path) -> None:
    """Puts complete results in place, and removes the folder. Once some are moved, the others must follow them."""
    is_whole = all((folder / name).exists() for name in _read(folder)["files"])
    if not is_whole or not _exchanged(folder, output_dir.resolve()):
        _move_each(folder, output_dir)
        remove(folder)


def _exchanged(folder: Path, output_dir: Path) -> bool:
    """Exchanges the two folders and removes the earlier one. Whether that can be done: where it cannot, nothing has
    changed."""
    aside = _beside(output_dir)
    try:
        if not _can_be_replaced(output_dir, folder):
            return False
        shutil.copymode(output_dir, folder)
        os.link(output_dir / LOCK, folder / LOCK)  # the same lock, for whoever waits for it
        folder.rename(aside)
    except OSError:
        return False
    if not exchange(aside, output_dir):
        aside.rename(folder)
        return False
    sync(output_dir.parent)
    for path in aside.iterdir():
        if path.name not in OWN:  # it came in the meantime
            path.rename(output_dir / path.name)
    remove(aside)
    return True


def _can_be_replaced(output_dir: Path, folder: Path) -> bool:
    """Whether nobody would miss the folder itself: it is this user's, nobody works in it, and holds nothing else."""
    is_own = output_dir.stat().st_uid == os.geteuid() and {*os.listdir(output_dir)} <= {*OWN, folder.name}
    return is_own and not Path.cwd().is_relative_to(output_dir)


def _beside(output_dir: Path) -> Path:
    return partial_of(output_dir.with_name(f"{output_dir.name}-aside"))


def _move_each(folder: Path, output_dir: Path) -> None:
    """Moves complete results into the folder and deletes results of an earlier analysis that this one lacks.

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
    """Finishes moving what an analysis that was killed or failed had completed, and deletes the rest."""
    resolved = output_dir.resolve()
    for left in abandoned(resolved.parent, f"{resolved.name}-aside.", own=True):
        remove(left)
    for folder in abandoned(output_dir, f"{ASIDE}.", own=True):
        if _read(folder) is not None:
            _place(folder, output_dir)
        remove(folder)


def _read(folder: Path) -> Any:
    """The manifest of a folder, or None if it is missing or incomplete."""
    try:
        return json.loads((folder / MANIFEST).read_text())
    except (OSError, ValueError):
        return None
