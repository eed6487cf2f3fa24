"""What mkdocs fills into the pages: tables made from the code, and the documents of the repository's root.

<!-- settings -->         a table for each section of the settings
<!-- recipes -->          the recipes, with what to expect of each
<!-- include FILE -->     a Markdown file of the repository, its links adapted to the site
"""

import html.parser
import inspect
import os
import re
import types
import typing
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic.fields import FieldInfo

from volo.cli.flags import flag_of
from volo.settings.config import Settings
from volo.settings.model import FORMS, AnyModel, own_fields
from volo.settings.recipes import RECIPES

ROOT = Path(__file__).parents[1]
NO_FLAG = {"form"}  # the form follows from --model and --hierarchical
BOUNDS = {"ge": "at least {}", "gt": "above {}", "le": "at most {}", "lt": "below {}"}
INCLUDE = re.compile(r"<!-- include (\S+) -->")
LINK = re.compile(r"\]\((?!https?://|#)([^)#\s]+)")


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Called by mkdocs for each page."""
    return filled(markdown)


def on_post_build(config: Any) -> None:
    """Called by mkdocs at the end. Raises ValueError if the site would load anything from another host."""
    site = Path(config["site_dir"])
    found = [f"{path.name}: {url}" for path in sorted(site.rglob("*")) for url in loaded_from_elsewhere(path)]
    if found:
        raise ValueError(f"the site must work without a network, got {'; '.join(found[:5])}")


def loaded_from_elsewhere(path: Path) -> list[str]:
    """Addresses on other hosts that a browser would load for a page or a style sheet; links are no such."""
    if path.suffix == ".html":
        loads = Loads()
        loads.feed(path.read_text())
        return [url for url in loads.urls if re.match(r"(https?:)?//", url)]
    if path.suffix == ".css":
        return re.findall(r"""(?:url\(|@import )\s*["']?((?:https?:)?//[^"')]+)""", path.read_text())
    return []


class Loads(html.parser.HTMLParser):
    """Collects what a page loads: scripts, style sheets, icons, pictures, frames."""

    def __init__(self) -> None:
        super().__init__()
        self.urls: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag == "link" and values.get("rel") not in ("canonical", "next", "prev"):
            self.urls.append(values.get("href") or "")
        elif tag in ("script", "img", "iframe", "source", "audio", "video", "embed"):
            self.urls.append(values.get("src") or "")


def filled(markdown: str) -> str:
    """The text of a page with its markers replaced."""
    markdown = INCLUDE.sub(lambda found: included(found[1]), markdown)
    for marker, make in (("<!-- settings -->", settings_tables), ("<!-- recipes -->", recipe_table)):
        if marker in markdown:
            markdown = markdown.replace(marker, make())
    return markdown


def included(name: str) -> str:
    """A file of the repository as a page of the site."""
    pages = {INCLUDE.match(path.read_text()): path.name for path in (ROOT / "docs").glob("*.md")}
    names = {found[1]: page for found, page in pages.items() if found}

    def adapted(found: re.Match) -> str:
        target = os.path.normpath(PurePosixPath(name).parent / found[1])
        if target in names:
            return f"]({names[target]}"
        if target.startswith("docs/"):
            return f"]({target.removeprefix('docs/')}"
        raise ValueError(f"{name} links to {found[1]}, which is not on the site; name it in `backticks` instead")

    return LINK.sub(adapted, (ROOT / name).read_text())


def recipe_table() -> str:
    rows = [(f"`{name}`", recipe().expects, f"`{inspect.getdoc(recipe)}`") for name, recipe in RECIPES.items()]
    return table(("recipe", "what to expect", "command"), rows)


def settings_tables() -> str:
    """A heading, a sentence and a table for each section; a model's settings by form."""
    return "\n\n".join(
        f"## {title}\n\n{inspect.getdoc(section)}\n\n{table(('flag', 'default', 'values', 'what it does'), rows)}"
        for title, section, rows in sections()
    )


def sections() -> Iterator[tuple[str, type, list[tuple[str, ...]]]]:
    for name, field in Settings.model_fields.items():
        if name == "model":
            common = [name for name in AnyModel.model_fields if name not in NO_FLAG]
            yield "Model", AnyModel, [setting(name, AnyModel.model_fields[name]) for name in common]
            for form, section in FORMS.items():
                rows = [setting(name, section.model_fields[name]) for name in own_fields(form)]
                yield f"Model, {form}", section, rows
        elif isinstance(field.annotation, type):
            fields = field.annotation.model_fields
            yield name.capitalize(), field.annotation, [setting(*item) for item in fields.items()]


def setting(name: str, field: FieldInfo) -> tuple[str, str, str, str]:
    """Flag, default, values and description of a setting."""
    flag = flag_of(name)
    default = "" if field.default is None else f"`{field.default}`"
    values = ", ".join(dict.fromkeys([*kinds(field.annotation), *bounds(field.metadata)]))
    text = " ".join((field.description or "").split()).replace("<", "&lt;")
    return f"`{flag}`", default, values, text


def kinds(annotation: Any) -> Iterator[str]:
    """What a value may be, in words: `int`, `at least 1`."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        yield from kinds(arguments[0])
        yield from bounds(arguments[1:])
    elif origin in (typing.Union, types.UnionType):
        for kind in arguments:
            yield from kinds(kind)
    elif origin is typing.Literal:
        yield " or ".join(f"`{value}`" for value in arguments)
    elif origin is tuple:
        many = "one or more" if ... in arguments else str(len(arguments))
        yield f"{many}: {', '.join(dict.fromkeys(kinds(arguments[0])))}"
    elif annotation is not type(None):
        yield {str: "text", bool: "on or off"}.get(annotation, annotation.__name__)


def bounds(metadata: typing.Iterable[Any]) -> Iterator[str]:
    for rule in metadata:
        for part in getattr(rule, "metadata", [rule]):  # a FieldInfo inside Annotated holds its own
            for name, words in BOUNDS.items():
                if (bound := getattr(part, name, None)) is not None:
                    yield words.format(bound)


def table(titles: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [titles, ("---",) * len(titles), *(tuple(cell.replace("|", "\\|") for cell in row) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
