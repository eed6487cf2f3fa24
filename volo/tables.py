"""Tables as CSV files that are harmless to whatever opens them.

Text that a spreadsheet would take for a formula gets an apostrophe in front, and so does text that begins with one.
Control characters, bytes of a file name that are not UTF-8, and backslashes are written as in Python: `\\n`, `\\x1b`,
`\\udcff`, `\\\\`. So every row is one line of UTF-8, and `read_table` returns what `TableWriter` was given. Numbers are
written as they are.
"""

import csv
import io
import re
import unicodedata
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import TextIO

FORMULA = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")  # in some spreadsheets their wide forms too
MARK = "'"
HIDDEN = {"Cc", "Cs", "Zl", "Zp"}  # control characters, halves of pairs, separators of lines and paragraphs
ESCAPED = re.compile(r"\\(?:[\\nrt]|x[0-9a-f]{2}|u[0-9a-f]{4})")

SEPARATORS = ",;\t"

Cell = str | int | float | None


class TableWriter:
    """Writes rows to a text file, which must have been opened with newline="", first the columns' names if given."""

    def __init__(self, file: TextIO, columns: Iterable[str] | None = None):
        self._rows = csv.writer(file, lineterminator="\n")
        if columns is not None:
            self.write(columns)

    def write(self, cells: Iterable[Cell]) -> None:
        self._rows.writerow([_harmless(cell) if isinstance(cell, str) else cell for cell in cells])


def row_of(cells: Iterable[Cell]) -> str:
    """One row, as `TableWriter` writes it."""
    text = io.StringIO()
    TableWriter(text).write(cells)
    return text.getvalue()


def read_table(path: Path) -> Iterator[dict[str, str]]:
    """The rows by column, as text. A cell that a row lacks is missing.

    Raises:
        OSError: a file that cannot be read.
        ValueError: a file that holds no table.
    """
    with open(path, newline="", encoding="utf-8", errors="surrogateescape") as file:  # as earlier versions wrote them
        rows = ([_original(cell) for cell in row] for row in csv.reader(file))
        try:
            columns = next(rows, [])
            for row in rows:
                yield dict(zip(columns, row, strict=False))
        except csv.Error as error:
            raise ValueError(f"{path} is no table ({error})") from None


def read_foreign_table(text: str, needed: Collection[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """Rows of a table that another program or a person wrote, by column, with the numbers of their lines; empty rows
    are left out, and blanks around names and values.

    Args:
        text: Separated by commas, semicolons or tabs.
        needed: Columns that the first line must name, whatever their case.

    Raises:
        ValueError: another first line, or a text that is no table.
    """
    header = text.partition("\n")[0]
    separator = next((one for one in SEPARATORS if {*needed} <= {*_columns(header, one)}), None)
    if separator is None:
        raise ValueError(f"its first line must name the columns {' and '.join(needed)}")
    rows = csv.reader(text.splitlines(keepends=True), delimiter=separator)
    try:
        columns = [name.strip().lower() for name in next(rows)]
        for row in rows:
            if any(cell.strip() for cell in row):
                yield rows.line_num, dict(zip(columns, map(str.strip, row), strict=False))
    except csv.Error as error:
        raise ValueError(f"line {rows.line_num}: {error}") from None


def _columns(header: str, separator: str) -> list[str]:
    return [name.strip().lower() for name in next(csv.reader([header], delimiter=separator), [])]


def _harmless(text: str) -> str:
    shown = "".join(_visible(letter) for letter in text) if not text.isprintable() or "\\" in text else text
    return MARK + shown if shown.startswith(MARK) or shown.lstrip().startswith(FORMULA) else shown


def _visible(letter: str) -> str:
    is_hidden = letter == "\\" or unicodedata.category(letter) in HIDDEN
    return letter.encode("unicode_escape").decode("ascii") if is_hidden else letter


def _original(cell: str) -> str:
    text = cell.removeprefix(MARK)
    return ESCAPED.sub(lambda found: found[0].encode("ascii").decode("unicode_escape"), text)
