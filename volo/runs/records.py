"""`metrics.jsonl`: the history of a run, one record per line, and its live display.

Every record has `kind` and `step`. kind `step`: train/loss, lr, grad_norm, images_per_s over the last steps; `epoch`:
the same over the epoch, with val/loss, val/acc1 and val/acc5; `note`: a message at the start, with the step to stop at;
`skipped`: a step whose update was skipped, and why.
"""

import codecs
import json
import warnings
from pathlib import Path
from typing import Any

from volo.console import Progress, percent
from volo.files import copied_aside, replace_synced

FILE = "metrics.jsonl"
WORDS = {"kind", "text"}  # of a record; everything else in it is a number


def read_records(run_dir: Path) -> list[dict[str, Any]]:
    """The records of a run, oldest first; a line cut short by a crash is dropped.

    Warns about other damaged lines, which are skipped, and about a file that cannot be read.
    """
    path = run_dir / FILE
    try:
        records, num_damaged = _read(path)
    except OSError as error:
        warnings.warn(f"skipped {path}, which cannot be read: {error.strerror or error}", stacklevel=2)
        return []
    if num_damaged:
        warnings.warn(f"skipped {num_damaged} damaged lines of {path}", stacklevel=2)
    return records


def rewind_records(run_dir: Path, step: int) -> None:
    """Drops the records after `step`, whose steps will run again, and damaged lines, after copying the file aside.

    Raises:
        OSError: the file cannot be read or written. It stays as it was.
    """
    path = run_dir / FILE
    records, num_damaged = _read(path)
    if num_damaged:
        warnings.warn(f"removed {num_damaged} damaged lines from {path}; a copy is {copied_aside(path)}", stacklevel=2)
    replace_synced(path, "".join(json.dumps(record) + "\n" for record in records if record["step"] <= step))


def parsed(line: bytes) -> dict[str, Any] | None:
    """The record that a line holds; None if the line is damaged."""
    try:
        record = json.loads(line.decode())
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict) or not isinstance(record.get("kind"), str) or type(record.get("step")) is not int:
        return None
    numbers = [value for name, value in record.items() if not (name in WORDS and isinstance(value, str))]
    is_whole = record["kind"] != "epoch" or type(record.get("epoch")) is int
    return record if is_whole and all(type(value) in (int, float) for value in numbers) else None


def _read(path: Path) -> tuple[list[dict[str, Any]], int]:
    """The records, and the number of damaged lines, except for a last one that was cut short."""
    try:
        content = path.read_bytes().removeprefix(codecs.BOM_UTF8)
    except FileNotFoundError:
        return [], 0
    lines = [line for line in content.splitlines() if line.strip()]
    records = [parsed(line) for line in lines]
    is_cut = bool(lines) and lines[-1].startswith(b"{") and not content.endswith((b"\n", b"\r")) and records[-1] is None
    whole = [record for record in records if record is not None]
    return whole, len(records) - len(whole) - is_cut


class Display:
    """Shows records as they arrive: a progress bar over the steps, one line for each epoch and note."""

    def __init__(self, images_per_step: int):
        self.progress = Progress("training", None, "images")
        self.images_per_step = images_per_step

    def __enter__(self) -> "Display":
        self.progress.__enter__()
        return self

    def __exit__(self, *error) -> None:
        self.progress.__exit__(*error)

    def show(self, record: dict[str, Any]) -> None:
        if record["kind"] == "note":
            self.progress.say(record["text"])
            self.progress.begin(record["step"] * self.images_per_step, record["stop_at"] * self.images_per_step)
        elif record["kind"] == "epoch":
            self.progress.say(epoch_line(record))
        elif record["kind"] in ("skipped", "said"):
            self.progress.say(record["text"])
        else:
            note = f"loss {record['train/loss']:.3f}"
            self.progress.update(record["step"] * self.images_per_step, note)


def epoch_line(record: dict[str, Any]) -> str:
    parts = [f"epoch {record['epoch']:3d}", f"step {record['step']:6d}", f"loss {record['train/loss']:.4f}"]
    if "val/acc1" in record:
        parts += [f"val loss {record['val/loss']:.4f}", f"val top-1 {percent(record['val/acc1'], 2)}"]
        parts += [f"top-5 {percent(record['val/acc5'], 2)}"]
    return "  ".join([*parts, f"{record['images_per_s']:,.0f} images/s"])
