"""The six analyses, each a step that writes its files and adds what it found to the report."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from volo.analysis.calibration import calibration_metrics, save_calibration
from volo.analysis.confusion import ConfusedPair, save_confusion
from volo.analysis.doubts import NO_DOUBTS, Doubts, doubtful_labels
from volo.analysis.duplicates import in_words, near_duplicates, save_duplicates
from volo.analysis.evaluate import (
    ClassScore,
    Coverage,
    Predictions,
    balanced_accuracy,
    class_scores,
    classification_metrics,
    coarse_accuracy,
    coverages,
)
from volo.analysis.explaining import gradcam, occlusion
from volo.analysis.explaining.explain import NUM_SCORED, Question, Selection, save_explanation, select
from volo.analysis.explaining.heatmaps import overlay, save_overlays
from volo.analysis.explaining.localization import SHUFFLED, Objects, Shares, controls, drawn_objects, score_heatmaps
from volo.analysis.listing import save_listing
from volo.analysis.predictions import save_prediction_grid
from volo.analysis.subject import Subject, View, Work, compute_outputs
from volo.errors import InputError
from volo.plots.page import Figure

# Runs work for a subject on a view with the available workers; returns (N, ...) results in the order of the view.
Compute = Callable[[Subject, View, Work], np.ndarray]
SHUFFLE_SEED = 0


@dataclass
class Findings:
    """What the analyses work on, and what they add to the report."""

    subject: Subject
    view: View
    predictions: Predictions
    compute: Compute
    output_dir: Path
    validation: View | None = None  # whose images a temperature is fitted on
    metrics: dict[str, Any] = field(default_factory=dict)
    classes: dict[str, ClassScore] = field(default_factory=dict)
    coverages: list[Coverage] = field(default_factory=list)
    doubts: Doubts | None = None
    pairs: list[ConfusedPair] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    overlays: dict[str, list[np.ndarray]] = field(default_factory=dict)
    methods: list[str] = field(default_factory=list)
    localization: dict[str, Shares] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @cached_property
    def selection(self) -> Selection:
        """The images that every explanation explains."""
        return select(self.predictions, num_scored=NUM_SCORED if self.view.is_drawn else 0)

    @cached_property
    def objects(self) -> Objects | None:
        """Where the objects of the scored images are, or None if unknown or if no image is predicted right."""
        scored = self.selection.places[self.selection.scored]
        return drawn_objects(self.view, scored) if len(scored) else None

    @cached_property
    def shown_images(self) -> np.ndarray:
        """(k, H, W, 3) uint8 of the explained images that are shown."""
        return self.view.pictures(self.selection.places[self.selection.shown])

    def add_figure(self, title: str, name: str, caption: str) -> None:
        self.figures.append(Figure(title, self.output_dir / name, caption, alt=f"{title}. {caption}"))


def evaluate(findings: Findings) -> None:
    """eval_metrics.json: `classification_metrics` and `calibration_metrics` as trained, balanced_acc1, coarse_acc1
    where the data have superclasses; coverage, as from `coverages`; per_class, per_class_precision, per_class_f1 and
    per_class_images, objects of the accuracy and the others (null where undefined) and the number of images of each
    class."""
    predictions, coarse = findings.predictions, findings.view.images.coarse
    findings.metrics |= classification_metrics(predictions) | calibration_metrics(predictions)
    if coarse is not None:
        findings.metrics["coarse_acc1"] = coarse_accuracy(predictions, coarse.of_class)
    findings.classes = class_scores(predictions)
    findings.metrics["balanced_acc1"] = balanced_accuracy(findings.classes)
    findings.coverages = coverages(predictions)


def confusion(findings: Findings) -> None:
    findings.pairs = save_confusion(findings.predictions, findings.output_dir)
    caption = "Rows are the true classes, columns the predicted ones, each row in shares of its class."
    findings.add_figure("Confusion matrix", "confusion_matrix.png", caption)


def calibration(findings: Findings) -> None:
    """The files of `save_calibration`; temperature, and the metrics after it with suffix `_after`, into
    eval_metrics.json. The temperature is fitted on validation images, never on those it is judged by."""
    found = save_calibration(findings.predictions, _on_validation(findings), findings.output_dir)
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
        "The same with logits divided by the temperature fitted on the validation images; volo predict does so with "
        f"--temperature {found['temperature']:.3g}.",
    )


def explain_by_gradcam(findings: Findings) -> None:
    """gradcam.pt (see `save_explanation`; also `layer`: the module whose map is explained), gradcam_overlay.png."""
    layer = findings.subject.model.explained_layer
    size = findings.view.images.images.shape[1:3]

    def maps(question: Question) -> tuple[np.ndarray, np.ndarray]:
        found = findings.compute(findings.subject, findings.view, gradcam.GradCam(question))
        return found, gradcam.heatmaps(found, *size)

    findings.methods.append(f"Grad-CAM at the map of {layer}")
    _explain(findings, "Grad-CAM", maps, ("gradcam.pt", "gradcam_overlay.png"), method=gradcam.METHOD, layer=layer)


def explain_by_occlusion(findings: Findings) -> None:
    """occlusion_heatmap.pt (see `save_explanation`; also, in pixels, `window` (height, width), `tops` and `lefts`:
    where it stood), occlusion_heatmap.png."""
    size = findings.view.images.images.shape[1:3]
    windows = occlusion.Windows.of(*size)

    def maps(question: Question) -> tuple[np.ndarray, np.ndarray]:
        found = findings.compute(findings.subject, findings.view, occlusion.Occlusion(question))
        return found, windows.heatmaps(found, *size)

    findings.methods.append(f"occlusion by a window of {windows.height} x {windows.width} pixels")
    files = ("occlusion_heatmap.pt", "occlusion_heatmap.png")
    _explain(findings, "Occlusion", maps, files, method=occlusion.METHOD, **windows.as_plain())


def predictions(findings: Findings) -> None:
    """predictions.csv (`save_listing`), predictions_grid.png; near_duplicates.csv if test images are like images
    trained on. The labels of drawn images are not doubted."""
    findings.doubts = NO_DOUBTS if findings.view.is_drawn else doubtful_labels(findings.predictions)
    save_listing(findings.predictions, findings.doubts, findings.view.name_of, findings.output_dir)
    _compare_with_trained(findings)
    save_prediction_grid(findings.predictions, findings.view.pictures, findings.output_dir)
    caption = f"Images it got right and wrong, and how sure it was of each. {findings.view.shown}".rstrip()
    findings.add_figure("Predictions", "predictions_grid.png", caption)


NOT_COMPARED = (
    "Not compared with the images trained on, which are not at hand or too many: copies of these among the test images "
    "would make the results too good."
)


def _compare_with_trained(findings: Findings) -> None:
    if findings.view.split != "test" or findings.view.is_drawn:
        return
    found = near_duplicates(findings.view, findings.subject.description.settings.resolved().data)
    if found is None:
        findings.notes.append(NOT_COMPARED)
    elif len(found.places):
        save_duplicates(found, findings.output_dir)
        findings.notes.append(in_words(found, findings.predictions.correct))


STEPS: dict[str, Callable[[Findings], None]] = {
    "eval": evaluate,
    "confusion": confusion,
    "calibration": calibration,
    "gradcam": explain_by_gradcam,
    "occlusion": explain_by_occlusion,
    "predictions": predictions,
}


def predict(subject: Subject, view: View, compute: Compute) -> Predictions:
    """Raises InputError if the weights give logits that are not finite."""
    names = subject.description.class_names
    logits, features = np.split(compute(subject, view, compute_outputs), [len(names)], axis=1)
    try:
        return Predictions(view.split, names, view.labels, logits, features)
    except ValueError as error:
        raise InputError(str(error)) from None


def _on_validation(findings: Findings) -> Predictions | None:
    """None if no validation images are available."""
    view = findings.validation
    if view is None:
        return None
    return findings.predictions if view is findings.view else predict(findings.subject, view, findings.compute)


def _explain(
    findings: Findings,
    name: str,
    maps: Callable[[Question], tuple[np.ndarray, np.ndarray]],
    files: tuple[str, str],
    **about: Any,
) -> None:
    """Maps and heatmaps of the selected images into `files`; scored against the truth if it is known."""
    predictions, selection = findings.predictions, findings.selection
    classes = predictions.predicted[selection.places]
    found, heatmaps = maps(Question(selection.places, classes))
    save_explanation(findings.output_dir / files[0], about, predictions, selection, found, heatmaps)
    images = zip(findings.shown_images, heatmaps[selection.shown], strict=True)
    findings.overlays[name] = [overlay(image, heatmap) for image, heatmap in images]
    save_overlays(
        findings.output_dir / files[1], f"{name} of the predicted class", findings.methods[-1],
        findings.shown_images, findings.overlays[name], predictions, selection.places[selection.shown],
    )  # fmt: skip
    if findings.objects is None:
        return
    scored = selection.scored
    few = scored[controls(len(scored))]
    _, blind = maps(Question(selection.places[few], classes[few], SHUFFLE_SEED))
    key = files[0].split(".")[0].split("_")[0]
    findings.localization[key] = score_heatmaps(heatmaps[scored], findings.objects)
    findings.localization[f"{key}{SHUFFLED}"] = score_heatmaps(blind, findings.objects.controls)
