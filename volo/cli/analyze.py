"""Evaluate and explain a checkpoint: metrics, confusion, calibration, Grad-CAM, occlusion, predictions, one report.

    volo analyze --checkpoint outputs/quickstart --analysis eval confusion

Model and data are rebuilt from the checkpoint alone, also after the run folder was moved. The same command does not
repeat a finished analysis, and says so.
"""

import dataclasses
import os
import sys
import webbrowser
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

from volo.cli.parse import parse_flags, program, refuse_torchrun
from volo.cli.workers import WorkerFlags
from volo.cluster.connect import prepare
from volo.console import percent
from volo.errors import InputError
from volo.settings.buckets import folder_or_place, is_in_bucket, place_to_read
from volo.settings.paths import folder_to_write, local_path
from volo.settings.ray_job import check_lasts
from volo.settings.run import RunSettings

Analysis = Literal["eval", "confusion", "calibration", "gradcam", "occlusion", "predictions"]


@dataclasses.dataclass(frozen=True)
class Flags:
    checkpoint: str
    """A run folder (its best checkpoint, otherwise its newest), its best or last, a checkpoint folder, or a single
    model.safetensors or .pt; also on object storage, s3://BUCKET/RUN."""
    analysis: tuple[Analysis, ...] = get_args(Analysis)
    """What to do. Default: everything."""
    output_dir: str | None = None
    """Folder for the results. Default: analysis in the run folder, or for another checkpoint than the best, another
    split or other data, analysis-step_00001200-val-...; for a single file, ./outputs/volo_inference/NAME-HASH. An
    earlier analysis in it is replaced once the new one is complete; other files stay."""
    split: Literal["test", "val"] = "test"
    """Images to analyze the model on."""
    data_dir: str | None = None
    """Where the data is now, or another labeled folder with all or some of the classes:
    <data_dir>/test/<class>/* or <data_dir>/<class>/*."""
    fresh: bool = False
    """Repeat the analysis even if the folder holds a finished one of the same weights, images and options."""
    no_show: bool = False
    """Do not open the report in a browser."""

    workers: WorkerFlags = dataclasses.field(default_factory=WorkerFlags)

    def check(self) -> RunSettings:
        """Raises InputError for values out of range."""
        if not self.analysis:
            raise InputError(f"--analysis needs at least one of {', '.join(get_args(Analysis))}, got none")
        place_to_read(self.checkpoint, "--checkpoint")
        if self.output_dir is not None:
            folder_to_write(self.output_dir, "--output-dir")
        if self.data_dir is not None:
            folder_or_place(self.data_dir, "--data-dir")
        return self.workers.run_settings()


def main(argv: Sequence[str]) -> None:
    prog = program("analyze")
    flags = parse_flags(Flags, argv, prog=prog, description=__doc__)
    run = flags.check()
    refuse_torchrun(prog)
    analyze_checkpoint(flags, run)


def analyze_checkpoint(flags: Flags, run: RunSettings) -> Path:
    """Runs the analyses over the workers of `run`; prints and returns the report's absolute path."""
    from volo.runs import checkpoint
    from volo.runs.copies import local_copy

    asked = local_copy(flags.checkpoint, "--checkpoint")
    path = checkpoint.find(asked)
    output_dir = _output_dir(flags, asked, path)
    print(f"analyzing {path}", flush=True)
    report = _here(flags, path, output_dir, run) if run.num_workers == 0 else _on_ray(flags, path, output_dir, run)
    print(_summary(output_dir) if "eval" in flags.analysis else f"results: {output_dir}")
    if is_in_bucket(flags.checkpoint) and output_dir.is_relative_to(path.parent.parent):
        from volo.analysis.output import take_results

        print(f"kept at: {take_results(output_dir, flags.checkpoint)}", flush=True)
    print(f"report: {report}", flush=True)
    if not flags.no_show and has_display():
        webbrowser.open(report.as_uri())
    return report


def _output_dir(flags: Flags, asked: Path, path: Path) -> Path:
    if flags.output_dir is not None:
        return local_path(flags.output_dir, "--output-dir")
    from volo.analysis.output import default_folder

    folder = default_folder(path, str(asked), flags.split, flags.data_dir)
    check_lasts(str(folder), "--output-dir")
    return folder.absolute()


def has_display() -> bool:
    """Whether a window could be opened here."""
    return sys.platform in ("darwin", "win32") or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def _here(flags: Flags, path: Path, output_dir: Path, run: RunSettings) -> Path:
    from volo.analysis.local import analyze_here

    return analyze_here(
        path, flags.analysis, output_dir, split=flags.split, data_dir=flags.data_dir, device=run.device,
        fresh=flags.fresh,
    )  # fmt: skip


def _on_ray(flags: Flags, path: Path, output_dir: Path, run: RunSettings) -> Path:
    prepare(run.address)
    from volo.cluster.inference.analyze import analyze_on_ray

    return analyze_on_ray(
        path, flags.analysis, output_dir, split=flags.split, data_dir=flags.data_dir, run=run, fresh=flags.fresh
    )


def _summary(output_dir: Path) -> str:
    import json

    metrics = json.loads((output_dir / "eval_metrics.json").read_text())
    top1, top5 = (percent(metrics[name], 2) for name in ("acc1", "acc5"))
    return (
        f"{metrics['split']}: top-1 {top1}, top-5 {top5}, loss {metrics['loss']:.4f} "
        f"on {metrics['num_samples']:,} images"
    )
