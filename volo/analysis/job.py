"""Runs the analyses of one checkpoint and writes their results and a report to a folder."""

import contextlib
import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from volo import __version__
from volo.analysis.classifier import TOP_K, ranked
from volo.analysis.confusion import ConfusedPair
from volo.analysis.explaining.localization import RANDOM, all_intervals, save_localization, score_center, score_random
from volo.analysis.output import METRICS, held, is_finished, made_aside, sha256, weights_of
from volo.analysis.report import PAGE, Explained, FileToSee, Report, write_report
from volo.analysis.steps import STEPS, Compute, Findings, predict
from volo.analysis.subject import Subject, View, load_subject, open_validation, open_view
from volo.files import replace_synced
from volo.runs import checkpoint
from volo.runs.copies import place_of
from volo.runs.listing import read_environment
from volo.runs.records import read_records

NUM_FILES = 12  # in each list of files to look at
NUM_EXAMPLES = 4  # of each confused pair


def analyze(
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

    Results are staged and replace earlier ones once complete. A finished analysis of the same checkpoint, images and
    options (`_identity`) is not repeated.

    Args:
        path: A checkpoint folder or a lone model file.
        analyses: Of STEPS, done in that order.
        split: test or val.
        data_dir: Where the data are, if not where the checkpoint says.
        compute: Does the work on the available workers.
        fresh: Repeats an analysis that is already finished.

    Returns:
        The report.

    Raises:
        InputError: a checkpoint or data that cannot be used, a folder that cannot be written or that another analysis
            is being written to.
        InferenceError: the disk refused a result; an earlier analysis is intact.
    """
    subject = load_subject(path)
    view = open_view(subject.description, split, data_dir, checkpoint.run_of(path))
    for note in view.notes:
        print(note, flush=True)
    validation = _validation(subject, view, checkpoint.run_of(path)) if "calibration" in analyses else None
    identity = _identity(path, analyses, view, validation)

    def is_done() -> bool:
        return not fresh and is_finished(output_dir, identity)

    is_read_only = is_done() and not os.access(output_dir, os.W_OK)
    with contextlib.nullcontext() if is_read_only else held(output_dir):
        if is_done():
            print(f"this analysis is finished, in {output_dir}; volo analyze --fresh repeats it", flush=True)
            return output_dir / PAGE
        with made_aside(output_dir, identity) as folder:
            findings = Findings(subject, view, predict(subject, view, compute), compute, folder, validation)
            _write_results(path, analyses, findings)
    return output_dir / PAGE


def _write_results(path: Path, analyses: Sequence[str], findings: Findings) -> None:
    for name, step in STEPS.items():
        if name in analyses:
            step(findings)
    _add_baselines(findings)
    if findings.metrics:
        metrics = json.dumps(findings.metrics | _by_class(findings), indent=1)
        replace_synced(findings.output_dir / METRICS, f"{metrics}\n")
    write_report(findings.output_dir, _report(path, findings))


def _validation(subject: Subject, view: View, run: Path | None) -> View | None:
    """The images to fit a temperature on, if they are available."""
    return view if view.split == "val" else open_validation(subject.description, view.data_dir, run)


def _identity(path: Path, analyses: Sequence[str], view: View, validation: View | None) -> dict[str, Any]:
    """Everything the results depend on, except workers and devices, which change only the last digits.

    From the run it includes what the report shows: its records and environment.
    """
    history = json.dumps([_history(path), _environment(path)])
    return {
        "volo_version": __version__,
        "checkpoint": place_of(path),
        "weights": sha256(weights_of(path)),
        "run": hashlib.sha256(history.encode()).hexdigest(),
        "split": view.split,
        "data_dir": view.data_dir,
        "images": view.digest(),
        "validation_images": validation.digest() if validation else None,
        "analyses": [name for name in STEPS if name in analyses],
    }


def _by_class(findings: Findings) -> dict[str, Any]:
    if not findings.classes:
        return {}
    return {
        "coverage": [asdict(coverage) for coverage in findings.coverages],
        "per_class": {name: score.accuracy for name, score in findings.classes.items()},
        "per_class_precision": {name: score.precision for name, score in findings.classes.items()},
        "per_class_f1": {name: score.f1 for name, score in findings.classes.items()},
        "per_class_images": {name: score.num_images for name, score in findings.classes.items()},
    }


def _add_baselines(findings: Findings) -> None:
    """Adds baselines to the explanations' scores, if there are any, and writes both to a file."""
    if findings.overlays and findings.view.is_drawn and findings.objects is None:
        findings.notes.append("No image is predicted right, so the explanations cannot be scored.")
    if not findings.localization or (objects := findings.objects) is None:
        return
    findings.localization |= {"centre": score_center(objects), RANDOM: score_random(objects)}
    save_localization(findings.output_dir, findings.view.split, objects, findings.localization)


def _report(path: Path, findings: Findings) -> Report:
    """Includes learning curves and environment if the checkpoint is still in its run folder."""
    description = findings.subject.description
    settings = description.settings
    objects = findings.objects if findings.localization else None
    notes = [f"Trained for {description.step:,} steps, {description.epoch} epochs."]
    if findings.view.split == "val":
        notes.append(
            "The best checkpoint of a run is chosen on the validation images, so results on them are "
            "optimistic; test results are not."
        )
    return Report(
        title=settings.run.run_name or "VOLO",
        checkpoint=place_of(path),
        split=findings.view.split,
        metrics=findings.metrics,
        pairs=findings.pairs,
        examples=[_examples(findings, pair) for pair in findings.pairs],
        classes=findings.classes,
        coverages=findings.coverages,
        mistakes=_mistakes(findings),
        doubts=_doubts(findings),
        history=_history(path),
        settings=settings.to_dict(),
        environment=_environment(path),
        figures=findings.figures,
        explained=_explained(findings),
        methods=findings.methods,
        localization=findings.localization,
        intervals=all_intervals(findings.localization, objects) if objects else {},
        num_scored=len(objects.masks) if objects else 0,
        notes=[*notes, *findings.view.notes, *findings.notes],
    )


def _mistakes(findings: Findings) -> list[FileToSee]:
    """The wrong predictions that the model is surest of."""
    if findings.doubts is None:
        return []
    predictions = findings.predictions
    wrong = np.flatnonzero(~predictions.correct)
    shown = wrong[np.argsort(-predictions.confidence[wrong], kind="stable")][:NUM_FILES]
    return _files(findings, shown, predictions.predicted[shown], predictions.confidence[shown])


def _examples(findings: Findings, pair: ConfusedPair) -> list[FileToSee]:
    """The images of a confused pair that the model is surest of."""
    predictions, names = findings.predictions, findings.predictions.class_names
    true, predicted = names.index(pair.true), names.index(pair.predicted)
    places = np.flatnonzero((predictions.labels == true) & (predictions.predicted == predicted))
    shown = places[np.argsort(-predictions.confidence[places], kind="stable")][:NUM_EXAMPLES]
    return _files(findings, shown, predictions.predicted[shown], predictions.confidence[shown])


def _doubts(findings: Findings) -> list[FileToSee]:
    if findings.doubts is None:
        return []
    return _files(findings, *(found[:NUM_FILES] for found in findings.doubts))


def _files(findings: Findings, places: np.ndarray, classes: np.ndarray, probabilities: np.ndarray) -> list[FileToSee]:
    """Images with another class than their own, and its probability."""
    if not len(places):
        return []
    labels, names = findings.predictions.labels, findings.predictions.class_names
    return [
        FileToSee(
            image=image,
            name=findings.view.name_of(place),
            label=names[labels[place]],
            other=names[other],
            probability=float(probability),
        )
        for image, place, other, probability in zip(
            findings.view.pictures(places), places, classes, probabilities, strict=True
        )
    ]


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
    return read_environment(path.parent.parent) if path.is_dir() else {}
