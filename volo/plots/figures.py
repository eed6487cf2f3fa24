"""One style for all pictures: colors, fonts, sizes, and how figures are created and saved.

Uses only matplotlib's objects: no pyplot state, no display. Text is never parsed as mathtext, so a class may be
called `$x_1$`; log axes are not used because their labels are mathtext.
"""

import io
import unicodedata
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, Literal

import matplotlib
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from volo.files import replace_synced

DPI = 150
CRISP_BELOW = 100  # pixels per side; smaller images are shown without interpolation

INK, MUTED, GRID, EMPTY = "#1f2933", "#66727f", "#e4e8ec", "#eceff1"
BLUE, ORANGE, GREEN = "#2b6693", "#c8603a", "#3d8168"
SEQUENTIAL = LinearSegmentedColormap.from_list(
    "volo", ["#fbfcfd", "#d3e3ee", "#8dbad6", "#4488b4", "#1c5a88", "#0b2d4d"]
).with_extremes(bad=EMPTY)

STYLE = {
    "axes.axisbelow": True,
    "axes.edgecolor": "#aab3bc",
    "axes.facecolor": "white",
    "axes.grid": False,
    "axes.labelcolor": MUTED,
    "axes.labelsize": 10,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.titlepad": 8,
    "axes.titlesize": 12,
    "axes.titleweight": "bold",
    "figure.facecolor": "white",
    "font.size": 10,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "savefig.bbox": "tight",
    "savefig.pad_inches": 0.2,
    "text.color": INK,
    "text.parse_math": False,
    "text.usetex": False,
    "xtick.color": "#aab3bc",
    "xtick.labelcolor": INK,
    "xtick.labelsize": 9,
    "ytick.color": "#aab3bc",
    "ytick.labelcolor": INK,
    "ytick.labelsize": 9,
}

# Fallbacks for characters that DejaVu Sans lacks; only installed fonts are passed to matplotlib.
FALLBACK_FONTS = ("Noto Sans CJK SC", "Noto Sans CJK JP", "WenQuanYi Micro Hei", "Arial Unicode MS", "Noto Sans")


@contextmanager
def style() -> Iterator[None]:
    """The project's style for everything drawn and saved inside; also a decorator, `@style()`.

    A character that no installed font has is drawn as a box without a warning: the report has the name as text.
    """
    look: dict[Any, Any] = STYLE | {"font.family": _families()}
    with matplotlib.rc_context(look), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph", UserWarning)
        yield


def new_figure(width: float, height: float, layout: Literal["constrained"] | None = "constrained") -> Figure:
    """A figure of `width` by `height` inches that needs no display."""
    figure = Figure(figsize=(width, height), dpi=DPI, layout=layout)
    FigureCanvasAgg(figure)
    return figure


def axes_at(figure: Figure, left: float, top: float, width: float, height: float) -> Axes:
    """Axes placed in inches from the upper left corner; saving includes what lies outside."""
    full_width, full_height = figure.get_size_inches()
    bottom = full_height - top - height
    return figure.add_axes((left / full_width, bottom / full_height, width / full_width, height / full_height))


def save(figure: Figure, path: Path) -> Path:
    """Writes a PNG atomically. Call inside `style`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    replace_synced(path, buffer.getvalue())
    return path


def shorten(name: str, limit: int) -> str:
    """A name on one line and at most `limit` columns wide (at least 3): the middle is replaced by an ellipsis."""
    plain = " ".join("".join(letter if letter.isprintable() else " " for letter in name).split())
    if _width(plain) <= limit:
        return plain
    tail = _prefix(plain[::-1], (limit - 1) // 3)[::-1]
    return f"{_prefix(plain, limit - 1 - _width(tail))}…{tail}"


def percent_axis(axis) -> None:
    """Ticks of an axis in [0, 1] as percent."""
    axis.set_major_formatter(lambda value, _: f"{100 * value:.3g}%")


def _prefix(text: str, columns: int) -> str:
    return next(text[:end] for end in range(columns, -1, -1) if _width(text[:end]) <= columns)


def _width(text: str) -> int:
    """Columns: two for East Asian wide letters, none for combining characters."""
    return sum(0 if unicodedata.combining(c) else 1 + (unicodedata.east_asian_width(c) in "WF") for c in text)


@cache
def _families() -> list[str]:
    installed = set(font_manager.fontManager.get_font_names())
    return ["DejaVu Sans", *(name for name in FALLBACK_FONTS if name in installed)]
