"""One self-contained HTML page: headline numbers, learning curves, pictures, tables, settings.

Pictures are embedded; the page loads nothing and runs no script. Its template is report.html.j2 in this folder; this
module collects and words its contents.
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from volo.analysis.confusion import ConfusedPair
from volo.analysis.evaluate import ClassScore, Coverage
from volo.analysis.intervals import Interval, compared, share_interval
from volo.console import percent
from volo.plots.curves import CURVES, is_number, save_learning_curves
from volo.plots.figures import CRISP_BELOW
from volo.plots.page import Figure, pictures, uri, write_page
from volo.settings.differences import flatten

PAGE = "report.html"
TEMPLATE = Path(__file__).with_name("report.html.j2")
THUMBNAIL = 112  # pixels, at most
SHOWN_CLASSES = 10  # worst and best classes; up to twice as many are all shown
POINTERS = {
    "gradcam": "Grad-CAM",
    "occlusion": "Occlusion",
    "gradcam_shuffled": "Grad-CAM, shuffled weights",
    "occlusion_shuffled": "Occlusion, shuffled weights",
    "centre": "Center of the image",
    "random": "Random point",
}
LABELS = {
    "balanced_acc1": "Balanced accuracy: the mean over the classes",
    "coarse_acc1": "Superclass accuracy",
    "nll": "Negative log-likelihood, nats",
    "brier": "Brier score",
    "mce": "Maximum calibration error",
    "ece_by_chance": "Calibration error that chance gives a calibrated model, at most, 95 times in 100",
    "temperature": "Fitted temperature",
    "nll_after": "Negative log-likelihood after temperature scaling",
    "brier_after": "Brier score after temperature scaling",
    "mce_after": "Maximum calibration error after temperature scaling",
    "ece_by_chance_after": "The same that chance gives, with the confidences after temperature scaling",
}


@dataclass(frozen=True, eq=False)
class Explained:
    """One image and the explanations of its prediction.

    Attributes:
        image: (H, W, 3) uint8.
        overlays: by the method's name, pictures (S, S, 3) uint8.
        true: name of the true class.
        top: (class, probability) of the most likely classes, most likely first.
    """

    image: np.ndarray
    overlays: Mapping[str, np.ndarray]
    true: str
    top: Sequence[tuple[str, float]]


@dataclass(frozen=True, eq=False)
class FileToSee:
    """A file that a person should look at: `image` (H, W, 3) uint8, labeled `label`, which the model takes for `other`
    with this `probability`."""

    image: np.ndarray
    name: str
    label: str
    other: str
    probability: float


@dataclass(frozen=True)
class Report:
    """Contents of the page. Everything but the first four may be omitted, and then so is its section.

    Attributes:
        title: name of the run or model.
        checkpoint: where the weights came from.
        split: what was evaluated.
        metrics: flat. acc1, acc5, loss, num_samples, ece become cards, ece_after a line on ece's; the rest a table.
            Names that begin with acc, ece or mce are fractions and shown as percent.
        pairs: as from `most_confused`.
        examples: some images of each pair.
        classes: of every class, how many images show it, and how many of them are predicted right.
        coverages: as from volo/analysis/evaluate.py.
        mistakes, doubts: files that are predicted wrong, and whose labels may be wrong; the first ones first.
        history: the records of metrics.jsonl, oldest first.
        settings: nested by section.
        environment: versions, machine; may be nested.
        figures: shown in this order, after the learning curves.
        explained: images with their explanations.
        methods: how they were explained, in a few words each.
        localization: of each of POINTERS, the shares that `score_heatmaps` names.
        intervals: the same, with the interval of each share that is not exact.
        num_scored: how many images they are shares of.
        notes: caveats, shown below the headline numbers.
    """

    title: str
    checkpoint: str
    split: str
    metrics: Mapping[str, Any]
    pairs: Sequence[ConfusedPair] = ()
    examples: Sequence[Sequence[FileToSee]] = ()
    classes: Mapping[str, ClassScore] = field(default_factory=dict)
    coverages: Sequence[Coverage] = ()
    mistakes: Sequence[FileToSee] = ()
    doubts: Sequence[FileToSee] = ()
    history: Sequence[Mapping[str, Any]] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)
    figures: Sequence[Figure] = ()
    explained: Sequence[Explained] = ()
    methods: Sequence[str] = ()
    localization: Mapping[str, Mapping[str, float | None]] = field(default_factory=dict)
    intervals: Mapping[str, Mapping[str, Interval | None]] = field(default_factory=dict)
    num_scored: int = 0
    notes: Sequence[str] = ()


def write_report(output_dir: Path, report: Report) -> Path:
    """Writes report.html, replacing an earlier one atomically; draws the learning curves if there is a history.

    Raises:
        ValueError: a figure that is not a PNG file.
    """
    output_dir.mkdir(parents=True, exist_ok=True)
    drawn = [] if any(figure.path.name == CURVES for figure in report.figures) else _curves(report, output_dir)
    return write_page(
        output_dir / PAGE,
        TEMPLATE,
        report=report,
        cards=_cards(report),
        notes=report.notes,
        metrics=_metric_rows(report.metrics),
        training=_training_facts(report.history),
        pictures=pictures([*drawn, *report.figures]),
        explained=[_explained(one) for one in report.explained],
        pointers=[(POINTERS[key], *_pointer(report, key)) for key in POINTERS if key in report.localization],
        pairs=list(zip([ConfusedPair(*pair) for pair in report.pairs], _pictured(report), strict=True)),
        classes=_class_tables(report.classes),
        files=[(*about, _rows(files)) for about, files in _files(report) if files],
        unseen=[name for name, score in report.classes.items() if not score.num_images],
        tables=[(name, _settings_groups(values)) for name, values in _folded(report) if values],
    )


def _curves(report: Report, output_dir: Path) -> list[Figure]:
    path = save_learning_curves(report.history, output_dir)
    caption = "Training loss is that of the augmented images, so the validation loss may lie below it."
    alt = "Curves over the steps of training: losses, validation accuracies, learning rate."
    return [Figure("Learning curves", path, caption, alt)] if path else []


def _training_facts(history: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Facts next to the curves: number of steps, best epoch, speed."""
    facts = []
    steps = [record["step"] for record in history if is_number(record.get("step"))]
    if steps:
        facts.append(("Steps", f"{max(steps):,}"))
    scored = [record for record in history if is_number(record.get("val/acc1"))]
    if scored:
        best = max(scored, key=lambda record: record["val/acc1"])
        when = next((f", {name} {best[name]:,}" for name in ("epoch", "step") if is_number(best.get(name))), "")
        facts.append(("Best validation top-1", percent(best["val/acc1"], 2) + when))
    speeds = [record["images_per_s"] for record in history if is_number(record.get("images_per_s"))]
    if speeds:
        facts.append(("Speed, median", f"{np.median(speeds):,.0f} images/s"))
    return facts


def _cards(report: Report) -> list[tuple[str, str, str]]:
    """(label, value, small print) of the available headline numbers."""
    metrics, classes = report.metrics, len(report.classes)
    after = metrics.get("ece_after")
    wanted = (
        ("acc1", "Top-1 accuracy", _range(metrics, "acc1") or "true class first"),
        ("acc5", "Top-5 accuracy", "true class among five"),
        ("coarse_acc1", "Superclass accuracy", "top-1 of the superclasses"),
        ("loss", "Loss", "cross entropy, nats"),
        ("num_samples", "Images", report.split),
        ("ece", "Calibration error", "expected (ECE)" if after is None else f"{percent(after, 2)} after scaling"),
    )
    hidden = {"acc5"} if 0 < classes <= 5 else set()  # it is always 100%
    shown = [each for each in wanted if each[0] in metrics and each[0] not in hidden]
    return [(label, _value(name, metrics[name]), note) for name, label, note in shown]


def _range(metrics: Mapping[str, Any], name: str) -> str:
    """The interval of a share of the images."""
    if "num_samples" not in metrics:
        return ""
    total = int(metrics["num_samples"])
    return f"{_between(share_interval(round(float(metrics[name]) * total), total))}, 95% interval"


def _between(interval: Interval) -> str:
    low, high = (percent(end) for end in interval)
    return f"{low.removesuffix('%')} to {high}"


def _pointer(report: Report, key: str) -> tuple[list[tuple[float | None, str]], str]:
    """Each share with its interval in words, and how the first share compares with that of a random point."""
    shares, found = report.localization[key], report.intervals.get(key, {})
    ranges = ((share, found.get(name)) for name, share in shares.items())
    in_mask, chance = found.get("in_mask"), report.localization["random"]["in_mask"]
    verdict = compared(in_mask, chance) if in_mask is not None and chance is not None else ""
    return [(share, _between(interval) if interval else "") for share, interval in ranges], verdict


def _metric_rows(metrics: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The metrics that are not on a card."""
    shown = {"acc1", "acc5", "loss", "num_samples", "ece", "ece_after", "split"}
    return [(LABELS.get(name, name), _value(name, value)) for name, value in metrics.items() if name not in shown]


def _files(report: Report) -> list[tuple[tuple[str, str, str, str], Sequence[FileToSee]]]:
    """Of each table: heading, what it shows, and the names of its two classes."""
    mistakes = ("Surest mistakes", "The wrong predictions that the model is surest of.", "True", "Predicted")
    doubts = (
        "Labels that may be wrong",
        "Images that hardly look like their class, and much like another. Some of them are merely hard.",
        "Label",
        "Looks like",
    )
    return [(mistakes, report.mistakes), (doubts, report.doubts)]


def _pictured(report: Report) -> list[list[tuple[str, bool, FileToSee]]]:
    """Of each confused pair, its images."""
    return [_rows(files) for files in report.examples] or [[] for _ in report.pairs]


def _rows(files: Sequence[FileToSee]) -> list[tuple[str, bool, FileToSee]]:
    return [(_png_uri(_small(file.image)), max(file.image.shape) < CRISP_BELOW, file) for file in files]


def _small(image: np.ndarray) -> np.ndarray:
    picture = Image.fromarray(image)
    picture.thumbnail((THUMBNAIL, THUMBNAIL))
    return np.asarray(picture)


def _class_tables(classes: Mapping[str, ClassScore]) -> list[tuple[str, list[tuple]]]:
    """Headed lists of (class, images, accuracy, its interval, precision, F1) by rising accuracy, or falling in the list
    of the highest. Without classes that no image shows."""
    rows = [
        (
            name, score.num_images, score.accuracy, _between(share_interval(score.num_right, score.num_images)),
            score.precision, score.f1,
        )
        for name, score in classes.items() if score.accuracy is not None
    ]  # fmt: skip
    rows.sort(key=lambda row: row[2])
    if len(rows) <= 2 * SHOWN_CLASSES:
        return [("All classes, lowest first", rows)] if rows else []
    return [("Lowest accuracy", rows[:SHOWN_CLASSES]), ("Highest accuracy", rows[: -SHOWN_CLASSES - 1 : -1])]


def _folded(report: Report) -> list[tuple[str, Mapping[str, Any]]]:
    return [("Settings", report.settings), ("Environment", report.environment)]


def _settings_groups(values: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    """(section, rows of name and value); settings without a section come first, without a heading."""
    loose = {name: value for name, value in values.items() if not isinstance(value, dict)}
    groups = [("", loose)] + [(name, flatten(value)) for name, value in values.items() if isinstance(value, dict)]
    return [(name, [(k, _value(k, v, plain=True)) for k, v in rows.items()]) for name, rows in groups if rows]


def _value(name: str, value: Any, plain: bool = False) -> str:
    """A value formatted for people; `plain`: as it was set."""
    value = value.item() if isinstance(value, np.generic) else value
    if value is None:
        return "none"
    if isinstance(value, list | tuple):
        return ", ".join(_value(name, item, plain) for item in value) or "none"
    if plain or not is_number(value):
        return str(value)
    if isinstance(value, int):
        return f"{value:,}"
    return percent(value, 2) if name.startswith(("acc", "balanced_acc", "ece", "mce")) else f"{value:.4g}"


def _explained(one: Explained) -> dict[str, Any]:
    """What the page needs of an explained image."""
    pictures = {"Input": one.image, **one.overlays}
    return {
        "true": one.true,
        "predicted": one.top[0][0],
        "is_right": one.top[0][0] == one.true,
        "top": one.top,
        "pictures": [(name, _png_uri(pixels), max(pixels.shape) < CRISP_BELOW) for name, pixels in pictures.items()],
    }


def _png_uri(pixels: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", optimize=True)
    return uri(buffer.getvalue())
