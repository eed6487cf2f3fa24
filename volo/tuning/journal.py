"""The study's journal, an append-only file, and its repair after a crash. No torch, no Ray."""

import contextlib
import datetime
import json
import os
import re
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from filelock import Timeout
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import TrialState

from volo.errors import InputError, TrainingError
from volo.files import copied_aside, replace_synced
from volo.locks import LOOK_S, take
from volo.runs.places import JOURNAL, LOCK, SWEEP_FILES, SWEEP_FOLDERS, TRIALS, check_files
from volo.tuning.search.drawing import REASON

STUDY = "sweep"
CREATE_STUDY, CREATE_TRIAL = 0, 4  # Optuna's numbers of what a line does, which its older journals fix
OP_CODE = re.compile(rb'"op_code"\s*:\s*([0-9]+)')
LOST = "its line of the journal was damaged"
Line = dict[str, Any]


@contextlib.contextmanager
def held(sweep_dir: Path) -> Iterator[None]:
    """Holds the sweep's lock, for one driver at a time.

    Raises:
        InputError: another process holds the lock, or the folder is not a sweep's.
    """
    if not (sweep_dir / JOURNAL).exists() and any(path.name != LOCK for path in sweep_dir.glob("*")):
        raise InputError(
            f"{sweep_dir} must be a sweep's folder or not exist, got other files; choose another --sweep-name"
        )
    check_files(sweep_dir, SWEEP_FILES, SWEEP_FOLDERS)
    try:
        sweep_dir.mkdir(parents=True, exist_ok=True)
        lock = take(sweep_dir / LOCK, LOOK_S, "set --output-dir to another disk")
    except Timeout:
        raise InputError(
            f"the sweep {sweep_dir} is being run by another process; wait for it or use another --sweep-name"
        ) from None
    except OSError as error:
        raise InputError(
            f"the sweep's folder must be writable, got {sweep_dir} ({error.strerror}); set --output-dir"
        ) from None
    try:
        yield
    finally:
        lock.release()


class Backend(JournalFileBackend):
    """Optuna's file of lines. A line that the disk refuses is taken back, and ends the sweep, which then resumes."""

    def __init__(self, path: Path):
        super().__init__(str(path), lock_obj=JournalFileOpenLock(str(path)))
        self.path = path

    def append_logs(self, logs: list[Line]) -> None:
        """Raises TrainingError: to mark a trial as failed would write to the same file."""
        size = os.path.getsize(self.path)
        try:
            super().append_logs(logs)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.truncate(self.path, size)
            raise TrainingError(
                f"{self.path} could not be written ({error.strerror or error}); what is in it is intact, and the same "
                "command resumes once the problem is fixed"
            ) from error


def open_journal(sweep_dir: Path, directions: Sequence[int] = ()) -> JournalStorage:
    """Repairs and opens the journal. The caller must hold the sweep's lock.

    Args:
        directions: Of the study, as Optuna numbers them, if the line that says so is damaged.

    Raises:
        InputError: a file that is no journal, or that has lost a line without which there is no sweep.
    """
    path = sweep_dir / JOURNAL
    Path(f"{path}.lock").unlink(missing_ok=True)  # left by a killed driver; Optuna would wait for it
    repair(path, directions)
    try:
        return JournalStorage(Backend(path))
    except (ValueError, KeyError, AssertionError) as error:
        raise InputError(
            f"{path} must be the journal of a study, got an invalid line ({error}); rename the sweep with --fresh"
        ) from None


def repair(path: Path, directions: Sequence[int] = ()) -> None:
    """Cuts off an incomplete last line, to which the next line would be appended otherwise, and repairs damaged ones.

    A damaged line costs what it said and no more: the trial that it began fails, with the reason, and keeps its number,
    by which other lines speak of it. The journal is copied aside, and a warning says what was lost.

    Raises:
        InputError: the journal is lost, and only its trials are left.
    """
    if not path.exists():
        return
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1].splitlines(keepends=True)
    found = [_parsed(line) for line in whole]
    damaged = [str(place) for place, line in enumerate(found, start=1) if line is None]
    if len(damaged) == len(found) and any((path.parent / TRIALS).glob("*")):
        raise InputError(
            f"{path} must hold the study of the trials beside it, got no line of it; restore it, or rename the sweep "
            "with --fresh"
        )
    if damaged:
        lines, failed = _repaired(whole, found, directions)
        cost = f"trial {', '.join(map(str, failed))} counts as failed" if failed else "what it said is lost"
        copy = copied_aside(path)
        warnings.warn(
            f"repaired {path}, in which line {', '.join(damaged)} was damaged: {cost}; a copy is {copy}", stacklevel=2
        )
        whole = lines
    if (repaired := b"".join(whole)) != content:
        replace_synced(path, repaired)


def _repaired(
    whole: Sequence[bytes], found: Sequence[Line | None], directions: Sequence[int]
) -> tuple[list[bytes], list[int]]:
    """The lines with others in place of the damaged ones, or none, and the numbers of the trials that fail by this."""
    kept: list[bytes] = []
    num_trials, failed = 0, []
    for place, (content, line) in enumerate(zip(whole, found, strict=True)):
        if line is None:
            line = _in_place_of(content, place, found[place + 1 :], num_trials, directions)
            content = json.dumps(line).encode() + b"\n" if line else b""
            failed += [num_trials] if line and line.get("user_attrs") == {REASON: LOST} else []
        num_trials += line is not None and line["op_code"] == CREATE_TRIAL
        kept.append(content)
    return kept, failed


def _in_place_of(
    content: bytes, place: int, later: Sequence[Line | None], num_trials: int, directions: Sequence[int]
) -> Line | None:
    """The line on which later lines build, in place of a damaged one; None if there is none."""
    glued = _parsed(content[content.rfind(b'{"op_code"') :])
    if glued is not None:  # a crash cut off the first part, and the next line was appended to it
        return glued
    code = OP_CODE.search(content)
    if place == 0:
        return _line(CREATE_STUDY, study_name=STUDY, directions=[int(one) for one in directions])
    if int(code[1]) == CREATE_TRIAL if code else _is_missing(num_trials, later):
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="microseconds")
        return _line(
            CREATE_TRIAL, study_id=0, state=TrialState.FAIL, datetime_start=now, datetime_complete=now,
            user_attrs={REASON: LOST}, distributions={}, params={}, system_attrs={}, intermediate_values={},
        )  # fmt: skip
    return None


def _is_missing(num_trials: int, later: Sequence[Line | None]) -> bool:
    """Whether later lines speak of a trial that no line has begun by then."""
    for line in later:
        if line is None:
            continue
        num_trials += line["op_code"] == CREATE_TRIAL
        if line.get("trial_id", -1) >= num_trials:
            return True
    return False


def _line(code: int, **values: Any) -> Line:
    return {"op_code": code, "worker_id": "", **values}


def _parsed(line: bytes) -> Line | None:
    """What a line says; None if it is damaged."""
    try:
        values = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return values if isinstance(values, dict) and isinstance(values.get("op_code"), int) else None
