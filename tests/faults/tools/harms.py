"""Damage to the files of a run while nothing reads them: what a disk, a crash or a careless hand leaves behind."""

import contextlib
import json
import os
import random
from pathlib import Path

from volo.runs import checkpoint
from volo.runs.records import FILE

FLIPPED, CUT, REMOVED = "a byte flipped", "a file cut short", "a file removed"
NO_TEXT, NO_RECORD, NO_STEP = "a byte 0xff", "a line [1]", "a record without a step"
FILE_HARMS, RECORD_HARMS = (FLIPPED, CUT, REMOVED), (NO_TEXT, NO_RECORD, NO_STEP)
FOREIGN = {NO_RECORD: b"[1]\n", NO_STEP: b'{"kind": "step", "train/loss": 1.0}\n'}


def good_steps(run_dir: Path) -> list[int]:
    """Of the checkpoints that hold, oldest first."""
    found = []
    for folder in sorted((run_dir / "checkpoints").glob("step_*")):
        with contextlib.suppress(checkpoint.DamagedCheckpoint):
            found.append(checkpoint.verify(folder).step)
    return found


def harm(path: Path, damage: str, draw: random.Random) -> str:
    """Damages a file that is not empty; says how and which."""
    place = draw.randrange(path.stat().st_size)
    if damage == REMOVED:
        path.unlink()
    elif damage == CUT:
        os.truncate(path, place)
    else:
        with open(path, "r+b") as file:
            file.seek(place)
            byte = file.read(1)[0]
            file.seek(place)
            file.write(bytes([byte ^ 1]))
    return f"{damage} ({path.name})"


def harm_checkpoint(run_dir: Path, damage: str, draw: random.Random) -> str:
    """Damages the newest checkpoint that holds, unless it is the last one."""
    good = good_steps(run_dir)
    if len(good) < 2:
        return ""
    name = draw.choice((checkpoint.MODEL, checkpoint.STATE, checkpoint.MANIFEST))
    return harm(checkpoint.folder_of(run_dir, good[-1]) / name, damage, draw)


def harm_below(folder: Path, damage: str, draw: random.Random) -> str:
    """Damages any file of a folder but locks and empty ones."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.suffix != ".lock"]
    files = [path for path in files if path.name != ".lock" and path.stat().st_size]
    return harm(draw.choice(files), damage, draw) if files else ""


def harm_records(run_dir: Path, damage: str, draw: random.Random) -> tuple[str, set[int]]:
    """Damages a line of `metrics.jsonl`, or adds one that is no record, in place: a worker may still be writing.

    Returns:
        What was done, and the steps whose record is gone.
    """
    path = run_dir / FILE
    if damage in FOREIGN:
        with open(path, "ab") as file:
            file.write(FOREIGN[damage])
        return f"{damage} ({FILE})", set()
    content = path.read_bytes()
    place = draw.choice([place for place, byte in enumerate(content) if byte != ord("\n")])
    with open(path, "r+b") as file:
        file.seek(place)
        file.write(b"\xff")
    line = content[content.rfind(b"\n", 0, place) + 1 :].partition(b"\n")[0]
    with contextlib.suppress(ValueError, TypeError, KeyError):
        return f"{damage} ({FILE})", {json.loads(line)["step"]}
    return f"{damage} ({FILE})", set()
