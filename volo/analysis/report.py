"""One HTML page that stands alone: headline numbers, learning curves, pictures, tables, settings.

Pictures travel inside the page; it loads nothing from elsewhere and runs no script. The page itself is
report.html.j2, beside this file; here its contents are gathered and worded.
"""

import base64
import math
import os
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from volo.analysis.confusion import ConfusedPair
from volo.analysis.figures import BLUE, DPI, GREEN, ORANGE, new_figure, percent, percent_axis, save, style
from volo.config import flatten

PAGE, CURVES = "report.html", "learning_curves.png"
HALF_PAGE = 620  # CSS pixels
SHOWN_CLASSES = 10  # worst and best each; twice as many are shown all
LABELS = {
    "nll": "Negative log-likelihood, nats",
    "brier": "Brier score",
    "mce": "Maximum calibration error",
    "temperature": "Fitted temperature",
    "nll_after": "Negative log-likelihood after temperature scaling",
    "brier_after": "Brier score after temperature scaling",
    "mce_after": "Maximum calibration error after temperature scaling",
}


@dataclass(frozen=True)
class Figure:
    """A PNG on disk: its heading, what to see in it (`caption`), and the same for who cannot see it (`alt`)."""

    title: str
    path: Path
    caption: str = ""
    alt: str = ""


@dataclass(frozen=True)
class Report:
    """What the page says. Everything but the first four may be left out, and so is its section.

    Attributes:
        title: name of the run or model.
        checkpoint: where the weights came from.
        split: what was evaluated.
        metrics: flat. acc1, acc5, loss, num_samples, ece become cards, ece_after a line on ece's; the rest a table.
            Names that begin with acc, ece or mce are fractions and shown as percent.
        pairs: as from `most_confused`.
        per_class: accuracy of each class, a fraction.
        history: the records of metrics.jsonl, oldest first.
        settings: nested by section.
        environment: versions, machine; may be nested.
        figures: shown in this order, after the learning curves.
        notes: caveats, shown below the headline numbers.
    """

    title: str
    checkpoint: str
    split: str
    metrics: Mapping[str, Any]
    pairs: Sequence[ConfusedPair] = ()
    per_class: Mapping[str, float] | None = None
    history: Sequence[Mapping[str, Any]] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)
    figures: Sequence[Figure] = ()
    notes: Sequence[str] = ()


def write_report(output_dir: Path, report: Report) -> Path:
    """Writes report.html, replacing an earlier one at once; draws the learning curves where there is a history.

    Raises:
        ValueError: a figure that is no PNG file.
    """
    output_dir.mkdir(parents=True, exist_ok=True)
    drawn = [] if any(figure.path.name == CURVES for figure in report.figures) else _curves(report, output_dir)
    page = _template().render(
        report=report,
        cards=_cards(report),
        metrics=_metric_rows(report.metrics),
        training=_training_facts(report.history),
        pictures=_pictures([*drawn, *report.figures]),
        pairs=[ConfusedPair(*pair) for pair in report.pairs],
        classes=_class_tables(report.per_class),
        tables=[(name, _settings_groups(values)) for name, values in _folded(report) if values],
        percent=percent,
    )
    path, partial = output_dir / PAGE, output_dir / f".{PAGE}-{os.getpid()}"
    try:
        partial.write_text(page, encoding="utf-8", errors="backslashreplace")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return path


@style()
def save_learning_curves(history: Sequence[Mapping[str, Any]], output_dir: Path) -> Path | None:
    """Writes learning_curves.png: losses, validation accuracies, learning rate, each where the history has it.

    Records may lack any key; those without a step, and values that are not finite, are passed over. None, and no
    file, where nothing is left.
    """
    train = _series(history, "train/loss", of_epochs=False), _series(history, "train/loss", of_epochs=True)
    accuracies = {"top-1": _series(history, "val/acc1"), "top-5": _series(history, "val/acc5")}
    panels = {
        "Loss": {"": train[0], "training": train[1], "validation": _series(history, "val/loss")},
        "Validation accuracy": {f"{name}, best {_best(points)}": points for name, points in accuracies.items()},
        "Learning rate": {"": _series(history, "lr")},
    }
    if len(train[1]) < 2:
        panels["Loss"] |= {"": [], "training": train[0] or train[1]}
    panels = {title: curves for title, curves in panels.items() if any(curves.values())}
    path = output_dir / CURVES
    if not panels:
        path.unlink(missing_ok=True)
        return None
    figure = new_figure(4.2 * len(panels), 3.4)
    for axes, (title, curves) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        _draw_curves(axes, title, curves)
    return save(figure, path)


def _draw_curves(axes: Axes, title: str, curves: dict[str, list[tuple[float, float]]]) -> None:
    """One panel. In the losses the curve without a name is the noisy one of single steps, drawn behind."""
    colours = {"validation": ORANGE, "top-5": GREEN}
    for name, points in curves.items():
        if points:
            noisy = not name and len(curves) > 1
            colour = colours.get(name.split(",")[0], BLUE)
            look = dict(alpha=0.3, linewidth=1) if noisy else dict(marker="o" if len(points) < 30 else None)
            axes.plot(*np.transpose(points), color=colour, markersize=4, label=name or None, **look)
    axes.set_title(title)
    axes.set_xlabel("step")
    axes.grid(axis="y")
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.xaxis.set_major_formatter(lambda step, _: f"{step / 1000:g}k" if abs(step) >= 10_000 else f"{step:,.0f}")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    if title == "Validation accuracy":
        axes.set_ylim(bottom=0)
        percent_axis(axes.yaxis)
    steps = {step for points in curves.values() for step, _ in points}
    if len(steps) == 1:
        axes.set_xlim(min(steps) - 1, max(steps) + 1)
    if any(name and points for name, points in curves.items()):
        axes.legend()


def _series(
    history: Iterable[Mapping[str, Any]], key: str, of_epochs: bool | None = None
) -> list[tuple[float, float]]:
    """(step, value) of the records that have both, in the order of steps; of epoch records alone, or of the others."""
    points = [
        (record["step"], record[key])
        for record in history
        if _is_number(record.get("step")) and _is_number(record.get(key))
        and (of_epochs is None or of_epochs == (record.get("kind") == "epoch"))
    ]
    return sorted(points, key=lambda point: point[0])


def _best(points: list[tuple[float, float]]) -> str:
    return percent(max((value for _, value in points), default=0.0))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _curves(report: Report, output_dir: Path) -> list[Figure]:
    path = save_learning_curves(report.history, output_dir)
    caption = "Training loss is that of the augmented images, so the validation loss may lie below it."
    alt = "Curves over the steps of training: losses, validation accuracies, learning rate."
    return [Figure("Learning curves", path, caption, alt)] if path else []


def _training_facts(history: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """What the curves do not say in words: how long, the best epoch, how fast."""
    facts = []
    steps = [record["step"] for record in history if _is_number(record.get("step"))]
    if steps:
        facts.append(("Steps", f"{max(steps):,}"))
    scored = [record for record in history if _is_number(record.get("val/acc1"))]
    if scored:
        best = max(scored, key=lambda record: record["val/acc1"])
        when = next((f", {name} {best[name]:,}" for name in ("epoch", "step") if _is_number(best.get(name))), "")
        facts.append(("Best validation top-1", percent(best["val/acc1"], 2) + when))
    speeds = [record["images_per_s"] for record in history if _is_number(record.get("images_per_s"))]
    if speeds:
        facts.append(("Speed, median", f"{np.median(speeds):,.0f} images/s"))
    return facts


def _cards(report: Report) -> list[tuple[str, str, str]]:
    """(label, value, small print) of the headline numbers that are there."""
    metrics, classes = report.metrics, len(report.per_class or ())
    after = metrics.get("ece_after")
    wanted = (
        ("acc1", "Top-1 accuracy", "true class first"),
        ("acc5", "Top-5 accuracy", f"of {classes} classes" if 0 < classes <= 5 else "true class among five"),
        ("loss", "Loss", "cross entropy, nats"),
        ("num_samples", "Images", report.split),
        ("ece", "Calibration error", "expected (ECE)" if after is None else f"{percent(after, 2)} after scaling"),
    )
    return [(label, _value(name, metrics[name]), note) for name, label, note in wanted if name in metrics]


def _metric_rows(metrics: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The metrics that no card shows."""
    shown = {"acc1", "acc5", "loss", "num_samples", "ece", "ece_after", "split"}
    return [(LABELS.get(name, name), _value(name, value)) for name, value in metrics.items() if name not in shown]


def _class_tables(per_class: Mapping[str, float] | None) -> list[tuple[str, list[tuple[str, float]]]]:
    """Headed lists of (class, accuracy), worst first, or best first in the list of the best."""
    ranked = sorted((per_class or {}).items(), key=lambda item: item[1])
    if len(ranked) <= 2 * SHOWN_CLASSES:
        return [("All classes, worst first", ranked)] if ranked else []
    return [("Worst classes", ranked[:SHOWN_CLASSES]), ("Best classes", ranked[: -SHOWN_CLASSES - 1 : -1])]


def _folded(report: Report) -> list[tuple[str, Mapping[str, Any]]]:
    return [("Settings", report.settings), ("Environment", report.environment)]


def _settings_groups(values: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    """(section, rows of name and value); what stands in no section comes first, without a heading."""
    loose = {name: value for name, value in values.items() if not isinstance(value, dict)}
    groups = [("", loose)] + [(name, flatten(value)) for name, value in values.items() if isinstance(value, dict)]
    return [(name, [(k, _value(k, v, plain=True)) for k, v in rows.items()]) for name, rows in groups if rows]


def _value(name: str, value: Any, plain: bool = False) -> str:
    """A value as a person reads it; `plain`: as it was set."""
    value = value.item() if isinstance(value, np.generic) else value
    if value is None:
        return "none"
    if isinstance(value, list | tuple):
        return ", ".join(_value(name, item, plain) for item in value) or "none"
    if plain or not _is_number(value):
        return str(value)
    if isinstance(value, int):
        return f"{value:,}"
    return percent(value, 2) if name.startswith(("acc", "ece", "mce")) else f"{value:.4g}"


def _pictures(figures: Sequence[Figure]) -> list[dict[str, Any]]:
    """What the page needs of each; two small ones that follow each other share a row, any other has its own."""
    pictures = [_embed(figure, number) for number, figure in enumerate(figures, start=1)]
    for picture in pictures:
        picture["is_wide"] = picture["width"] > HALF_PAGE
    position = 0
    while position < len(pictures):
        pair = pictures[position : position + 2]
        alone = len(pair) < 2 or pair[0]["is_wide"] or pair[1]["is_wide"]
        pair[0]["is_wide"] = alone
        position += 1 if alone else 2
    return pictures


def _embed(figure: Figure, number: int) -> dict[str, Any]:
    """A picture's text, its bytes as a data URI, its size in CSS pixels as drawn, and its width in its own."""
    data = figure.path.read_bytes() if figure.path.is_file() else b""
    if data[:8] != b"\x89PNG\r\n\x1a\n":
        raise ValueError(f"a figure must be a PNG file, got {str(figure.path)!r}; draw it first, or leave it out")
    width, height = struct.unpack(">II", data[16:24])
    return {
        "id": f"figure-{number}",
        "figure": figure,
        "uri": "data:image/png;base64," + base64.b64encode(data).decode(),
        "width": round(width * 96 / DPI),
        "height": round(height * 96 / DPI),
        "full_width": width,
        "is_strip": width > 1.25 * height,
    }


def _template() -> jinja2.Template:
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    options = dict(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined)
    return jinja2.Environment(loader=loader, **options).get_template("report.html.j2")
