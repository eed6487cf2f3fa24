"""Prepares the run folder before training starts: new, to be resumed, finished, or not to be touched."""

import contextlib
import json
import os
import platform
import shlex
import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from volo.data.datasets import open_train
from volo.data.decoded.cache import Images
from volo.data.folders.damage import DamagedImages
from volo.data.pipeline import check_batch_size
from volo.data.splits import Split
from volo.errors import InputError
from volo.files import copied_aside, replace_synced, sync
from volo.locks import LOOK_S, take
from volo.runs import checkpoint
from volo.runs.copies import local_copy
from volo.runs.disk_room import check_disk_room
from volo.runs.home import Home, home_of
from volo.runs.listing import is_locked, read_failure
from volo.runs.places import (
    BROUGHT,
    CONFIG,
    ENVIRONMENT,
    FAILURE,
    LOCK,
    RUN_FILES,
    RUN_FOLDERS,
    check_files,
    check_is_ours,
    is_empty,
    is_run,
)
from volo.settings.config import ResolvedSettings, Settings, build_settings
from volo.settings.differences import FREE_ON_RESUME, differences, listed
from volo.settings.yaml_files import read_yaml

RECORDED_VERSIONS = ("volo", "torch", "ray", "numpy")


@dataclass(frozen=True)
class Start:
    """Where a run starts. `total_steps` is 0 if nothing has been trained yet."""

    checkpoint: Path | None
    step: int
    total_steps: int

    @property
    def is_complete(self) -> bool:
        """Whether the whole schedule has been trained."""
        return 0 < self.total_steps <= self.step

    def is_finished(self, settings: Settings) -> bool:
        limit = settings.optim.max_steps or self.total_steps
        return self.total_steps > 0 and self.step >= min(self.total_steps, limit)


def is_restart() -> bool:
    """Whether torchrun started this process, with the same command, to replace one that failed."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


def open_run(settings: Settings, check: Callable[[Start], None] = lambda start: None) -> tuple[Start, Home]:
    """Prepares the run folder and takes its lock, which is held until the process ends or releases its home.

    With `fresh`, an existing run of this name is renamed once everything has been checked, unless torchrun restarted
    this very run. Otherwise it resumes, and settings that could change its result must be the same. An error leaves no
    new folder behind.

    Args:
        settings: Of one run.
        check: More checks, before anything in the folder changes.

    Raises:
        InputError: changed settings (all are listed), a folder that is not a run, cannot be written or has no room for
            the checkpoints to come, or a run that is being trained now.
    """
    assert settings.run.seeds is None, "several seeds are several runs: volo/training/seeds.py"
    run_dir, is_fresh, home = settings.run_dir, settings.run.fresh and not is_restart(), home_of(settings)
    home.check()
    _check_folder(run_dir, is_fresh)
    is_new = not run_dir.exists()
    if is_new:
        check_run(settings)
    home.lock = lock_of(run_dir)
    try:
        home.open(is_fresh)
        start = Start(None, 0, 0) if is_fresh else find_start(settings)
        _check_same(settings, start)
        if not start.is_finished(settings):
            check_disk_room(settings, is_fresh)
        check(start)
        if is_fresh and settings.is_in_bucket:
            home.set_aside()
        elif is_fresh and not is_empty(run_dir):
            set_aside(run_dir)
            home.lock.release()
            home.lock = lock_of(run_dir)
        _note_beginning(settings, start)
        home.begin()
    except BaseException as error:
        home.release()
        if is_new and isinstance(error, InputError):
            _remove_new(run_dir)
        raise
    return start, home


def _check_folder(run_dir: Path, is_fresh: bool) -> None:
    if is_fresh:
        check_is_ours(run_dir, "--run-name")
        return
    if run_dir.is_dir() and not is_empty(run_dir) and not is_run(run_dir):
        raise InputError(f"{run_dir} must be a run folder or not exist, got other files; choose another --run-name")
    check_files(run_dir, RUN_FILES, RUN_FOLDERS)


def lock_of(run_dir: Path) -> FileLock:
    """Makes a folder if there is none and takes its lock. Raises InputError if it cannot."""
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        lock = take(run_dir / LOCK, LOOK_S, "set --output-dir to another disk")
    except Timeout:
        raise _in_training(run_dir) from None
    except OSError as error:
        raise _not_writable(run_dir, error) from None
    return lock


def _note_beginning(settings: Settings, start: Start) -> None:
    run_dir = settings.run_dir
    try:
        if start.step == 0 or not _has_config(settings):
            replace_synced(run_dir / CONFIG, settings.to_yaml())
        if start.step == 0 or not (run_dir / ENVIRONMENT).exists():
            replace_synced(run_dir / ENVIRONMENT, json.dumps(_environment(), indent=1) + "\n")
        (run_dir / FAILURE).unlink(missing_ok=True)
    except OSError as error:
        raise _not_writable(run_dir, error) from None


def _has_config(settings: Settings) -> bool:
    """Whether the run's config.yaml holds its settings. A damaged one is copied aside, to be written again."""
    path = settings.run_dir / CONFIG
    if not path.exists():
        return False
    try:
        is_whole = differences(build_settings(read_yaml(path)), settings).keys() <= FREE_ON_RESUME
    except (InputError, RecursionError):
        is_whole = False
    if not is_whole:
        warnings.warn(f"wrote {path} again, which was damaged; a copy is {copied_aside(path)}", stacklevel=2)
    return is_whole


def _remove_new(run_dir: Path) -> None:
    """Removes a folder that was made for a run that cannot start, if nothing else has come into it."""
    with contextlib.suppress(OSError):
        for name in (CONFIG, ENVIRONMENT, LOCK, BROUGHT):
            (run_dir / name).unlink(missing_ok=True)
        run_dir.rmdir()


def _not_writable(run_dir: Path, error: OSError) -> InputError:
    return InputError(
        f"the run folder must be writable, got {run_dir} ({error.strerror}); check its permissions and its disk's free "
        "space, or set --output-dir"
    )


def note_failure(run_dir: Path, error: Exception) -> str | None:
    """Records why training failed, unless the disk itself failed; the next start removes the record.

    Returns:
        What an earlier failing rank recorded, if any; its record stays.
    """
    notes = "".join(f" ({note})" for note in getattr(error, "__notes__", ()))
    path = run_dir / FAILURE
    try:
        with open(path, "x", errors="backslashreplace") as file:
            try:
                file.write(f"{type(error).__name__}: {error}{notes}\n")
                file.flush()
            except OSError:  # an empty file would say that the run failed, but not why
                path.unlink(missing_ok=True)
    except FileExistsError:
        return read_failure(run_dir)
    except OSError:
        pass
    return None


def check_run(settings: Settings) -> None:
    """Raises InputError if these settings cannot resume the run, or the one of `resume_path`."""
    _check_same(settings, find_start(settings))


def find_start(settings: Settings) -> Start:
    """The run's newest intact checkpoint, otherwise that of `resume_path`, otherwise the beginning."""
    found = checkpoint.newest(settings.run_dir)
    if settings.run.resume_path:
        asked = local_copy(settings.run.resume_path, "--resume-path")
        if found is None:
            found = _checkpoint_to_resume(asked)
        elif asked.is_relative_to(settings.run_dir.absolute()) and asked.exists():
            _check_not_older(checkpoint.find(asked, prefer="last"), found)
    if found is None:
        return Start(None, 0, 0)
    manifest = checkpoint.verify(found)
    return Start(found, manifest.step, manifest.total_steps)


def _checkpoint_to_resume(asked: Path) -> Path:
    found = checkpoint.find(asked, prefer="last")
    if found.is_file():
        raise InputError(
            f"--resume-path must name a run or checkpoint folder, got {found}, which holds only weights; name the "
            "folder it came from"
        )
    return found


def _check_not_older(asked: Path, found: Path) -> None:
    if asked != found.absolute():
        raise InputError(
            f"--resume-path must not name an older checkpoint of the run itself, got {asked}, but {found.name} is "
            "newer; choose another --run-name to branch off"
        )


def open_data(settings: ResolvedSettings, is_new: bool = False) -> tuple[Images, Split]:
    """The training images, decoded, and which of them are held out; from where this machine has them.

    Args:
        settings: The run's settings.
        is_new: For the start of a training, which checks all of the data (`open_train`).

    Raises:
        InputError: what is wrong with the data.
    """
    try:
        data, split = open_train(settings.data.here(), is_new=is_new)
    except DamagedImages as error:
        raise InputError(f"{error}, or leave out damaged images with --skip-damaged") from error
    check_batch_size(settings.optim.batch_size, len(split.train), world_size=max(1, settings.run.max_workers or 1))
    return data, split


def _check_same(settings: Settings, start: Start) -> None:
    """Checks that the settings are the same. A run without a checkpoint has nothing to lose and may change them."""
    if start.checkpoint is None:
        return
    _, before = checkpoint.load_model(start.checkpoint)
    changes = differences(before.settings, settings)
    changed = {name: pair for name, pair in changes.items() if name not in FREE_ON_RESUME}
    is_branch = not start.checkpoint.is_relative_to(settings.run_dir)
    if changed and is_branch:
        raise InputError(
            f"--resume-path must resume training with the settings it started with, got different ones for "
            f"{settings.run.resume_path}:\n{listed(changed)}\nuse the old ones, or start a new run from its weights: "
            f"{_init_weights(str(settings.run.resume_path))} instead of --resume-path"
        )
    if changed:
        raise changed_settings(settings, changed, is_complete=start.is_complete)
    if is_branch and start.is_finished(settings):
        raise _nothing_left(settings, start)


def changed_settings(
    settings: Settings, changed: Mapping[str, tuple[Any, Any]], is_complete: bool = False
) -> InputError:
    """The refusal to resume a run with other settings, which it lists."""
    return InputError(
        f"a run must resume with the settings it started with, got different ones for {settings.home}:\n"
        f"{listed(changed)}\nuse the old ones, or --fresh to rename the run and start again, or another --run-name"
        + (f"; to train this finished run further, {further(settings)}" if is_complete else "")
    )


def _nothing_left(settings: Settings, start: Start) -> InputError:
    asked = settings.run.resume_path
    remedy = f"raise --max-steps above {start.step}"
    if start.is_complete:
        remedy = f"start a new run from its weights: {_init_weights(str(asked))} instead of --resume-path"
    found = f"{asked} at step {start.step}"
    return InputError(f"--resume-path must name a run with steps left, got {found}; to train further, {remedy}")


def further(settings: Settings) -> str:
    """How to train a finished run further, in words."""
    return f"start a new run from its weights: another --run-name with {_init_weights(settings.home)}"


def _init_weights(path: str) -> str:
    return shlex.join(["--init-weights", path])


def set_aside(folder: Path, flag: str = "--run-name") -> None:
    """Renames a run, a sweep, or a folder of several runs to the first free of `<name>.1`, `<name>.2` ...

    The caller holds the folder's lock, which remains that of the renamed folder and must be taken again.

    Args:
        flag: The flag that gave the folder its name.

    Raises:
        InputError: the folder is none of these, or a process is training in it.
    """
    check_is_ours(folder, flag)
    for lock in folder.rglob(LOCK):
        if lock.parent != folder and is_locked(lock.parent):
            raise _in_training(lock.parent)
    number = 1
    while os.path.lexists(target := folder.with_name(f"{folder.name}.{number}")):
        number += 1
    try:
        folder.rename(target)
        (target / LOCK).unlink(missing_ok=True)  # who waits for it will look for that of the new folder
        sync(target.parent)
    except OSError as error:
        raise _not_writable(folder, error) from None
    print(f"renamed the previous run to {target}", flush=True)


def _in_training(run_dir: Path) -> InputError:
    return InputError(
        f"{run_dir} is being trained by another process (`fuser {run_dir / LOCK}` on its machine names it); wait for "
        "it or use another --run-name"
    )


def _environment() -> dict:
    return {
        "command": shlex.join(sys.argv),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "host": platform.node(),
        "cpus": os.cpu_count(),
        "gpus": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
        **{name: metadata.version(name) for name in RECORDED_VERSIONS if _is_installed(name)},
    }


def _is_installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True
