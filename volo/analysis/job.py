"""The analyses of one checkpoint, one after the other, into a folder and a report."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from volo import checkpoint
from volo.analysis.calibration import save_calibration
from volo.analysis.confusion import ConfusedPair, save_confusion
from volo.analysis.evaluate import Predictions, classification_metrics, per_class_accuracy
from volo.analysis.predictions import save_prediction_grid
from volo.analysis.report import Figure, Report, write_report
from volo.analysis.subject import View, open_view
from volo.errors import InputError
from volo.records import read_records

METRICS = "eval_metrics.json"


@dataclass
class Findings:
    """What the analyses work on, and what they add to the report."""

    predictions: Predictions
    view: View
    output_dir: Path
    validation: Callable[[], Predictions | None]
    metrics: dict[str, Any] = field(default_factory=dict)
    per_class: dict[str, float] | None = None
    pairs: list[ConfusedPair] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add_figure(self, title: str, name: str, caption: str) -> None:
        self.figures.append(Figure(title, self.output_dir / name, caption, alt=f"{title}. {caption}"))


def analyse(
    path: Path,
    analyses: Sequence[str],
    output_dir: Path,
    *,
    split: str,
    data_dir: str | None,
    compute_logits: Callable[[str], np.ndarray],
) -> Path:
    """Runs the analyses asked for and writes what each one makes, and report.html, into `output_dir`.

    Args:
        path: A checkpoint folder or a lone model file.
        analyses: Of RUN, done in that order.
        split: test or val.
        data_dir: Another place of the data than the checkpoint names.
        compute_logits: (N, classes) float32 of a split, by whatever workers there are.

    Returns:
        The report.

    Raises:
        InputError: a checkpoint or data that cannot be used.
    """
    _, description = checkpoint.load_model(path)
    view = open_view(description, split, data_dir)
    _make_folder(output_dir)
    predictions = _predicted(description, split, view, compute_logits)

    def validation() -> Predictions | None:
        if split == "val":
            return predictions
        if not description.settings.data.val_fraction:
            return None
        return _predicted(description, "val", open_view(description, "val"), compute_logits)

    findings = Findings(predictions, view, output_dir, validation)
    for name, run in RUN.items():
        if name in analyses:
            run(findings)
    if findings.metrics:
        (output_dir / METRICS).write_text(json.dumps(findings.metrics, indent=1) + "\n")
    return write_report(output_dir, _report(path, description, findings))


def _eval(findings: Findings) -> None:
    findings.metrics |= classification_metrics(findings.predictions)
    findings.per_class = per_class_accuracy(findings.predictions)


def _confusion(findings: Findings) -> None:
    findings.pairs = save_confusion(findings.predictions, findings.output_dir)
    caption = "Rows are the true classes, columns the predicted ones, each row in shares of its class."
    findings.add_figure("Confusion matrix", "confusion_matrix.png", caption)


def _calibration(findings: Findings) -> None:
    found = save_calibration(findings.predictions, findings.validation(), findings.output_dir)
    findings.metrics |= found["before"]
    findings.notes += found["notes"]
    findings.add_figure(
        "Reliability as trained",
        "reliability_before.png",
        "How often it was right, by how sure it said it was; on the diagonal the two agree.",
    )
    if found["after"] is None:
        return
    findings.metrics["temperature"] = found["temperature"]
    findings.metrics |= {f"{name}_after": value for name, value in found["after"].items()}
    findings.add_figure(
        "Reliability after temperature scaling",
        "reliability_after.png",
        "The same with logits divided by the temperature fitted on the validation images.",
    )


def _predictions(findings: Findings) -> None:
    save_prediction_grid(findings.predictions, findings.view.pixels, findings.output_dir)
    caption = "Images it got right and wrong, and how sure it was of each."
    findings.add_figure("Predictions", "predictions_grid.png", caption)


RUN: dict[str, Callable[[Findings], None]] = {
    "eval": _eval,
    "confusion": _confusion,
    "calibration": _calibration,
    "predictions": _predictions,
}


def _predicted(
    description: checkpoint.Description, split: str, view: View, compute_logits: Callable[[str], np.ndarray]
) -> Predictions:
    return Predictions(split, description.class_names, view.labels, compute_logits(split))


def _make_folder(output_dir: Path) -> None:
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--output-dir must be a folder that can be written, got {output_dir} ({error})") from None


def _report(path: Path, description: checkpoint.Description, findings: Findings) -> Report:
    """With learning curves and environment where the checkpoint still lies in its run folder."""
    run_dir = path.parent.parent
    settings = description.settings
    trained = f"Trained for {description.step:,} steps, {description.epoch} epochs."
    return Report(
        title=settings.run.run_name or "VOLO",
        checkpoint=str(path),
        split=findings.predictions.split,
        metrics=findings.metrics,
        pairs=findings.pairs,
        per_class=findings.per_class,
        history=read_records(run_dir) if path.is_dir() else [],
        settings=settings.to_dict(),
        environment=_environment(run_dir) if path.is_dir() else {},
        figures=findings.figures,
        notes=[trained, *findings.notes],
    )


def _environment(run_dir: Path) -> dict[str, Any]:
    try:
        return json.loads((run_dir / "environment.json").read_text())
    except (OSError, ValueError):
        return {}
