"""What all HTML pages share: one style, embedded pictures, no scripts, no external resources.

A page is a Jinja template, in any folder, that extends page.html.j2 of this folder; parts.html.j2 has macros for
several pages.
"""

import base64
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

from volo.console import percent
from volo.files import replace_synced
from volo.plots.figures import DPI

HALF_PAGE = 620  # CSS pixels


@dataclass(frozen=True)
class Figure:
    """A PNG on disk: its heading, caption, and alternative text."""

    title: str
    path: Path
    caption: str = ""
    alt: str = ""


def write_page(path: Path, template: Path, **values: Any) -> Path:
    """Renders the template with `values`, replacing an earlier page atomically. Text is escaped.

    page.html.j2 takes `cards`, (label, value, small print) of headline numbers, and `notes`, lines below them.
    """
    page = _environment(template.parent).get_template(template.name).render(percent=percent, **values)
    replace_synced(path, page.encode(errors="backslashreplace"))
    return path


def pictures(figures: Sequence[Figure]) -> list[dict[str, Any]]:
    """The template's values for each figure; two consecutive small ones share a row, any other has its own.

    Raises:
        ValueError: a figure that is not a PNG file.
    """
    shown = [_embed(figure, number) for number, figure in enumerate(figures, start=1)]
    for picture in shown:
        picture["is_wide"] = picture["width"] > HALF_PAGE
    position = 0
    while position < len(shown):
        pair = shown[position : position + 2]
        alone = len(pair) < 2 or pair[0]["is_wide"] or pair[1]["is_wide"]
        pair[0]["is_wide"] = alone
        position += 1 if alone else 2
    return shown


def uri(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()


def _embed(figure: Figure, number: int) -> dict[str, Any]:
    """A picture's text, its bytes as a data URI, its size in CSS pixels as drawn, and its width in its own."""
    data = figure.path.read_bytes() if figure.path.is_file() else b""
    if data[:8] != b"\x89PNG\r\n\x1a\n":
        raise ValueError(f"a figure must be a PNG file, got {str(figure.path)!r}; draw it first, or omit it")
    width, height = struct.unpack(">II", data[16:24])
    return {
        "id": f"figure-{number}",
        "figure": figure,
        "uri": uri(data),
        "width": round(width * 96 / DPI),
        "height": round(height * 96 / DPI),
        "full_width": width,
        "is_strip": width * 96 / DPI > HALF_PAGE and width > 1.25 * height,  # of which a phone shows a part
    }


def _environment(folder: Path) -> jinja2.Environment:
    loader = jinja2.FileSystemLoader([folder, Path(__file__).parent])
    return jinja2.Environment(
        loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
