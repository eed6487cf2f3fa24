"""The analyses of one checkpoint, one after the other, into a folder and a report."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from volo.analysis.classifier import TOP_K, ranked
from volo.analysis.localisation import save_localisation, score_centre, score_random
from volo.analysis.report import Explained, Report, write_report
from volo.analysis.steps import STEPS, Compute, Findings, predict
from volo.analysis.subject import load_subject, open_view
from volo.errors import InputError
from volo.records import read_records

METRICS = "eval_metrics.json"
RESULTS = (
    METRICS, "localisation.json", "confusion_matrix.npy", "confusion_matrix.png", "calibration_stats.npz",
    "reliability_before.png", "reliability_after.png", "gradcam.pt", "gradcam_overlay.png", "occlusion_heatmap.pt",
    "occlusion_heatmap.png", "predictions_grid.png", "learning_curves.png", "report.html",
)  # fmt: skip


def analyse(
    path: Path, analyses: Sequence[str], output_dir: Path, *, split: str, data_dir: str | None, compute: Compute
) -> Path:
    """Runs the analyses asked for and writes what each one makes, and report.html, into `output_dir`.

    Args:
        path: A checkpoint folder or a lone model file.
        analyses: Of STEPS, done in that order.
        split: test or val.
        data_dir: Another place of the data than the checkpoint names.
        compute: Does the work, by whatever workers there are.

    Returns:
        The report.

    Raises:
        InputError: a checkpoint or data that cannot be used.
    """
    subject = load_subject(path)
    view = open_view(subject.description, split, data_dir)
    for note in view.notes:
        print(note, flush=True)
    _make_folder(output_dir)
    findings = Findings(subject, view, predict(subject, view, compute), compute, output_dir)
    for name, step in STEPS.items():
        if name in analyses:
            step(findings)
    _add_baselines(findings)
    if findings.metrics:
        metrics = findings.metrics | ({"per_class": findings.per_class} if findings.per_class else {})
        (output_dir / METRICS).write_text(json.dumps(metrics, indent=1) + "\n")
    return write_report(output_dir, _report(path, findings))


def _add_baselines(findings: Findings) -> None:
    """What the explanations' scores stand beside, where there are any; and both into a file."""
    if findings.overlays and findings.view.is_drawn and findings.objects is None:
        findings.notes.append("No image is predicted right, so there is none to score the explanations on.")
    if not findings.localisation:
        return
    findings.localisation |= {"centre": score_centre(findings.objects), "random": score_random(findings.objects)}
    save_localisation(findings.output_dir, findings.view.split, findings.objects, findings.localisation)


def _make_folder(output_dir: Path) -> None:
    """Without the results of an earlier analysis, which would pass for those of this one."""
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
        for name in RESULTS:
            (output_dir / name).unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"--output-dir must be a folder that can be written, got {output_dir} ({error})") from None


def _report(path: Path, findings: Findings) -> Report:
    """With learning curves and environment where the checkpoint still lies in its run folder."""
    run_dir = path.parent.parent
    description = findings.subject.description
    settings = description.settings
    trained = f"Trained for {description.step:,} steps, {description.epoch} epochs."
    return Report(
        title=settings.run.run_name or "VOLO",
        checkpoint=str(path),
        split=findings.view.split,
        metrics=findings.metrics,
        pairs=findings.pairs,
        per_class=findings.per_class,
        history=read_records(run_dir) if path.is_dir() else [],
        settings=settings.to_dict(),
        environment=_environment(run_dir) if path.is_dir() else {},
        figures=findings.figures,
        explained=_explained(findings),
        methods=findings.methods,
        localisation=findings.localisation,
        notes=[trained, *findings.view.notes, *findings.notes],
    )


def _explained(findings: Findings) -> list[Explained]:
    if not findings.overlays:
        return []
    predictions, selection = findings.predictions, findings.selection
    names, shown = predictions.class_names, selection.places[selection.shown]
    best, probabilities = ranked(predictions.logits[shown], TOP_K)  # (k, 5)
    return [
        Explained(
            image=findings.shown_images[number],
            overlays={name: overlays[number] for name, overlays in findings.overlays.items()},
            true=names[predictions.labels[place]],
            top=[(names[index], float(p)) for index, p in zip(best[number], probabilities[number], strict=True)],
        )
        for number, place in enumerate(shown)
    ]


def _environment(run_dir: Path) -> dict[str, Any]:
    try:
        return json.loads((run_dir / "environment.json").read_text())
    except (OSError, ValueError):
        return {}
