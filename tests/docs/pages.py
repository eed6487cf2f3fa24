"""The documents of the project, and the blocks of code in them."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
SITE = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").glob("*.md"))
PAGES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "EXPERIMENTS.md", "benchmarks/RESULTS.md", *SITE)
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
SPAN = re.compile(r"`([^`\n]+)`")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page; `line` is where its first line stands."""

    page: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def text_of(page: str) -> str:
    return (ROOT / page).read_text()


def blocks(page: str) -> list[Block]:
    text = text_of(page)
    return [Block(page, text.count("\n", 0, found.start(2)) + 1, *found.groups()) for found in FENCE.finditer(text)]


def spans(page: str) -> list[str]:
    """Code in the running text and in tables."""
    return SPAN.findall(FENCE.sub("", text_of(page)))


def python_of(page: str) -> list[str]:
    return [block.text for block in blocks(page) if block.language == "python"]


def shell_lines(block: Block) -> Iterator[str]:
    """The commands of a `sh` or `console` block: continued lines joined, comments and a console's answers left out."""
    lines = block.text.replace("\\\n", " ").splitlines()
    if block.language == "console":
        lines = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
    yield from (line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#"))


def words_of(line: str) -> list[str]:
    return shlex.split(line, comments=True)
