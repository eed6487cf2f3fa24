"""Rank 0's records: to metrics.jsonl, to TensorBoard, and to a callback for each record."""

import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from volo.data.pictures import shown_channels
from volo.runs.checkpoint import writing
from volo.runs.records import FILE, rewind_records
from volo.settings.config import Settings
from volo.settings.differences import flatten

GRID_IMAGES = 32


class Tracker:
    """Writes records to the run folder and calls `show` with each (the console in this process; nothing under Ray).

    All methods raise TrainingError if the disk fails.
    """

    def __init__(self, run_dir: Path, step: int, show: Callable[[dict[str, Any]], None] | None = None):
        self._what = f"{run_dir / FILE} or tensorboard/ beside it"
        with writing(self._what):
            rewind_records(run_dir, step)
            self._file = open(run_dir / FILE, "a", buffering=1)  # noqa: SIM115
            # Discard what an earlier process has logged for steps that run again; at the beginning, everything.
            self._board = SummaryWriter(str(run_dir / "tensorboard"), purge_step=step + 1 if step else 0)
        self._uncaught, threading.excepthook = threading.excepthook, self._unless_raised_here
        self._show = show

    def record(self, kind: str, step: int, **values: Any) -> None:
        """Writes one line of metrics.jsonl; numbers named `.../...` or known to be curves also go to TensorBoard."""
        record = {"kind": kind, "step": step, **values}
        with writing(self._what):
            self._file.write(json.dumps(record) + "\n")
            if kind in ("step", "epoch"):
                self._add_scalars(kind, step, values)
        if self._show:
            self._show(record)

    def sync(self) -> None:
        """Returns when the records so far are on disk, before a checkpoint says that their steps are done."""
        with writing(self._what):
            os.fsync(self._file.fileno())

    def image_grid(self, images: Tensor, mean: tuple, std: tuple) -> None:
        """The first augmented inputs, (B, C, H, W) normalized, as the model sees them."""
        shown = images[:GRID_IMAGES].detach().cpu().float()
        shown = shown * shown.new_tensor(std)[:, None, None] + shown.new_tensor(mean)[:, None, None]
        with writing(self._what):
            self._board.add_images("train/inputs", shown.nan_to_num().clamp(0, 1)[:, shown_channels(shown.shape[1])])

    def hyperparameters(self, settings: Settings, metrics: list[str]) -> None:
        plain = {
            name: value if isinstance(value, bool | int | float) else str(value)
            for name, value in flatten(settings.to_dict()).items()
        }
        with writing(self._what):
            writer: Any = self._board.file_writer  # its class declares None, which it is only once closed
            for summary in hparams(plain, dict.fromkeys(metrics, 0.0)):
                writer.add_summary(summary)

    def __enter__(self) -> "Tracker":
        return self

    def __exit__(self, *error) -> None:
        try:
            with writing(self._what):
                self._file.close()
                self._board.close()
        finally:
            threading.excepthook = self._uncaught

    def _unless_raised_here(self, uncaught: threading.ExceptHookArgs) -> None:
        """The error of TensorBoard's thread is raised by the next record as well, so its traceback says nothing new."""
        own = type(uncaught.thread).__module__.startswith("tensorboard.")
        if not (own and isinstance(uncaught.exc_value, OSError)):
            self._uncaught(uncaught)

    def _add_scalars(self, kind: str, step: int, values: dict[str, Any]) -> None:
        for name, value in values.items():
            if name == "epoch":
                continue
            tag = name if "/" in name else f"train/{name}"
            if kind == "step" or name.startswith("val/"):
                self._board.add_scalar(tag, value, step)
        if kind == "epoch":
            self._board.flush()
