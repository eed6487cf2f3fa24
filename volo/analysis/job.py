"""The analyses of one checkpoint, one after the other, into a folder and a report."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from volo import checkpoint
from volo.analysis.confusion import save_confusion
from volo.analysis.evaluate import Predictions, classification_metrics, per_class_accuracy
from volo.analysis.predictions import save_prediction_grid
from volo.analysis.report import Figure, Report, save_learning_curves, write_report
from volo.analysis.subject import View, open_view

ANALYSES = ("eval", "confusion", "predictions")
HISTORY = "metrics.jsonl"


@dataclass
class Findings:
    """What the analyses have found so far, for the report."""

    predictions: Predictions
    view: View
    output_dir: Path
    report: Report


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
        analyses: Of ANALYSES.
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
    output_dir.mkdir(parents=True, exist_ok=True)
    predictions = Predictions(split, description.class_names, view.labels, compute_logits(split))
    findings = Findings(predictions, view, output_dir, _empty_report(path, description))
    for name in analyses:
        RUN[name](findings)
    _add_history(path, findings)
    return write_report(output_dir, findings.report)


def _eval(findings: Findings) -> None:
    metrics = classification_metrics(findings.predictions)
    (findings.output_dir / "eval_metrics.json").write_text(json.dumps(metrics, indent=1) + "\n")
    findings.report.metrics.update(metrics)
    findings.report.per_class = per_class_accuracy(findings.predictions)


def _confusion(findings: Findings) -> None:
    findings.report.pairs = save_confusion(findings.predictions, findings.output_dir)
    _add_figure(
        findings,
        "Confusion matrix",
        "confusion_matrix.png",
        "Rows are the true classes, columns the predicted ones, each row in shares of its class.",
    )


def _predictions(findings: Findings) -> None:
    save_prediction_grid(findings.predictions, findings.view.pixels, findings.output_dir)
    _add_figure(
        findings, "Predictions", "predictions_grid.png", "Images it got right and wrong, and how sure it was of each."
    )


RUN: dict[str, Callable[[Findings], None]] = {"eval": _eval, "confusion": _confusion, "predictions": _predictions}


def _add_figure(findings: Findings, title: str, name: str, caption: str) -> None:
    findings.report.figures.append(Figure(title, findings.output_dir / name, caption, alt=title))


def _empty_report(path: Path, description: checkpoint.Description) -> Report:
    settings = description.settings
    return Report(
        title=settings.run.run_name or "VOLO",
        checkpoint=str(path),
        settings=yaml.safe_load(settings.to_yaml()),
        notes=[f"Trained for {description.step:,} steps, {description.epoch} epochs."],
    )


def _add_history(path: Path, findings: Findings) -> None:
    """Learning curves and environment, where the checkpoint still lies in its run folder."""
    run_dir = path.parent.parent
    if not path.is_dir() or not (run_dir / HISTORY).exists():
        return
    findings.report.history = _records(run_dir / HISTORY)
    findings.report.environment = _json(run_dir / "environment.json")
    if save_learning_curves(findings.report.history, findings.output_dir):
        _add_figure(findings, "Learning curves", "learning_curves.png", "Loss and accuracy over the training.")


def _records(path: Path) -> list[dict[str, Any]]:
    records = (_parsed(line) for line in path.read_text().splitlines())
    return [record for record in records if record]


def _json(path: Path) -> dict[str, Any]:
    return (_parsed(path.read_text()) or {}) if path.exists() else {}


def _parsed(text: str) -> dict[str, Any] | None:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return None
