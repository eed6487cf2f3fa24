"""The analyses of one checkpoint, one after the other, into a folder and a report."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from volo import __version__
from volo.analysis.classifier import TOP_K, ranked
from volo.analysis.explaining.localization import RANDOM, all_intervals, save_localisation, score_centre, score_random
from volo.analysis.output import METRICS, is_finished, made_aside, sha256
from volo.analysis.report import PAGE, Explained, Report, write_report
from volo.analysis.steps import STEPS, Compute, Findings, predict
from volo.analysis.subject import Subject, View, load_subject, open_validation, open_view
from volo.runs.checkpoint import MODEL
from volo.runs.records import read_records


def analyse(
    path: Path,
    analyses: Sequence[str],
    output_dir: Path,
    *,
    split: str,
    data_dir: str | None,
    compute: Compute,
    fresh: bool = False,
) -> Path:
    """Runs the analyses asked for and writes what each one makes, and report.html, into `output_dir`.

    They are made aside and replace what is there when they are whole; a finished analysis of the same checkpoint,
    images and options (`_identity`) is not made again.

    Args:
        path: A checkpoint folder or a lone model file.
        analyses: Of STEPS, done in that order.
        split: test or val.
        data_dir: Another place of the data than the checkpoint names.
        compute: Does the work, by whatever workers there are.
        fresh: Makes a finished one again.

    Returns:
        The report.

    Raises:
        InputError: a checkpoint or data that cannot be used.
    """
    subject = load_subject(path)
    view = open_view(subject.description, split, data_dir)
    for note in view.notes:
        print(note, flush=True)
    validation = _validation(subject, view) if "calibration" in analyses else None
    identity = _identity(path, analyses, view, validation)
    if not fresh and is_finished(output_dir, identity):
        print(f"this analysis is finished, in {output_dir}; volo analyze --fresh makes it again", flush=True)
        return output_dir / PAGE
    with made_aside(output_dir, identity) as folder:
        findings = Findings(subject, view, predict(subject, view, compute), compute, folder, validation)
        for name, step in STEPS.items():
            if name in analyses:
                step(findings)
        _add_baselines(findings)
        if findings.metrics:
            (folder / METRICS).write_text(json.dumps(findings.metrics | _by_class(findings), indent=1) + "\n")
        write_report(folder, _report(path, findings))
    return output_dir / PAGE


def _validation(subject: Subject, view: View) -> View | None:
    """The images to fit a temperature on, where they can be had."""
    return view if view.split == "val" else open_validation(subject.description, view.data_dir)


def _identity(path: Path, analyses: Sequence[str], view: View, validation: View | None) -> dict[str, Any]:
    """Whatever the results depend on, but for what changes their last digits: the workers and their devices.

    Of the run it is what the report shows: its records and environment.
    """
    history = json.dumps([_history(path), _environment(path)])
    return {
        "volo_version": __version__,
        "checkpoint": str(path),
        "weights": sha256(path / MODEL if path.is_dir() else path),
        "run": hashlib.sha256(history.encode()).hexdigest(),
        "split": view.split,
        "data_dir": view.data_dir,
        "images": view.digest(),
        "validation_images": validation.digest() if validation else None,
        "analyses": [name for name in STEPS if name in analyses],
    }


def _by_class(findings: Findings) -> dict[str, dict[str, Any]]:
    if not findings.classes:
        return {}
    return {
        "per_class": {name: score.accuracy for name, score in findings.classes.items()},
        "per_class_images": {name: score.num_images for name, score in findings.classes.items()},
    }


def _add_baselines(findings: Findings) -> None:
    """What the explanations' scores stand beside, where there are any; and both into a file."""
    if findings.overlays and findings.view.is_drawn and findings.objects is None:
        findings.notes.append("No image is predicted right, so there is none to score the explanations on.")
    if not findings.localisation or (objects := findings.objects) is None:
        return
    findings.localisation |= {"centre": score_centre(objects), RANDOM: score_random(objects)}
    save_localisation(findings.output_dir, findings.view.split, objects, findings.localisation)


def _report(path: Path, findings: Findings) -> Report:
    """With learning curves and environment where the checkpoint still lies in its run folder."""
    description = findings.subject.description
    settings = description.settings
    objects = findings.objects if findings.localisation else None
    notes = [f"Trained for {description.step:,} steps, {description.epoch} epochs."]
    if findings.view.split == "val":
        notes.append(
            "Validation images choose a run's best checkpoint, so that figures on them favor it; those on test do not."
        )
    return Report(
        title=settings.run.run_name or "VOLO",
        checkpoint=str(path),
        split=findings.view.split,
        metrics=findings.metrics,
        pairs=findings.pairs,
        classes=findings.classes,
        history=_history(path),
        settings=settings.to_dict(),
        environment=_environment(path),
        figures=findings.figures,
        explained=_explained(findings),
        methods=findings.methods,
        localisation=findings.localisation,
        intervals=all_intervals(findings.localisation, objects) if objects else {},
        num_scored=len(objects.masks) if objects else 0,
        notes=[*notes, *findings.view.notes, *findings.notes],
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


def _history(path: Path) -> list[dict[str, Any]]:
    return read_records(path.parent.parent) if path.is_dir() else []


def _environment(path: Path) -> dict[str, Any]:
    try:
        return json.loads((path.parent.parent / "environment.json").read_text()) if path.is_dir() else {}
    except (OSError, ValueError):
        return {}
