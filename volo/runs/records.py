"""`metrics.jsonl`: the history of a run, one record per line, and its live display.

Every record has `kind` and `step`. kind `step`: train/loss, lr, grad_norm, images_per_s over the last steps; `epoch`:
the same over the epoch, with val/loss, val/acc1 and val/acc5; `note`: a message at the start, with the step to stop at;
`skipped`: a step whose update was skipped, and why.
"""

import json
from pathlib import Path
from typing import Any

from volo.console import Progress, percent
from volo.files import read_edited, replaced

FILE = "metrics.jsonl"


def read_records(run_dir: Path) -> list[dict[str, Any]]:
    """The records of a run, oldest first; a line cut short by a crash is dropped."""
    try:
        lines = read_edited(run_dir / FILE).splitlines()
    except FileNotFoundError:
        return []
    return [record for line in lines if (record := _parsed(line)) is not None]


def rewind_records(run_dir: Path, step: int) -> None:
    """Drops the records after `step`, whose steps will run again."""
    kept = [record for record in read_records(run_dir) if record["step"] <= step]
    with replaced(run_dir / FILE) as partial:
        partial.write_text("".join(json.dumps(record) + "\n" for record in kept))


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


def _parsed(line: str) -> dict[str, Any] | None:
    try:
        return json.loads(line)
    except json.JSONDecodeError:
        return None
