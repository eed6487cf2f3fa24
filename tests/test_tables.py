"""Tables: harmless in a spreadsheet, one line of UTF-8 a row, and read back as they were."""

import ast
import csv
import os
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from volo.tables import TableWriter, read_table, row_of

ROOT = Path(__file__).parents[1]
FORMULAS = [
    "=1+1",
    "+cmd|' /C calc'!A0",
    "-2+3",
    "@SUM(A1)",
    "\t=1",
    "\r=1",
    "\n=1",
    " =1",
    "\u00a0=1",
    "\uff1d1",
    "=",
    "-",
]
ODD = ["'quoted", "''", "a\nb", "\x00", "\x1b[31mred", os.fsdecode(b"no\xffutf8"), "\\n", "\\", 'a, "b"', "\u2028", ""]
PLAIN = ["cat", "新しい\u200c猫", "a b", "0.5", "<b>dog"]


def written(path: Path, rows: list[list]) -> Path:
    with open(path, "w", newline="", encoding="utf-8") as file:
        table = TableWriter(file, ["=name", "number"])
        for row in rows:
            table.write(row)
    return path


@pytest.mark.parametrize("text", FORMULAS + ODD, ids=ascii)
def test_text_that_could_do_harm_is_one_harmless_line_and_comes_back(tmp_path, text):
    path = written(tmp_path / "a.csv", [[text, -1.5]])
    lines = path.read_bytes().decode().split("\n")
    assert len(lines) == 3 and lines[-1] == ""
    with open(path, newline="", encoding="utf-8") as file:
        [header, [cell, number]] = csv.reader(file)
    assert not cell.lstrip().startswith(tuple("=+-@\uff1d")) and not header[0].startswith("=")
    assert not {unicodedata.category(letter) for letter in cell} & {"Cc", "Cs", "Zl", "Zp"}
    assert number == "-1.5", "a number stays one"
    assert list(read_table(path)) == [{"=name": text, "number": "-1.5"}]
    assert row_of([text, -1.5]) == f"{lines[1]}\n"


@pytest.mark.parametrize("text", PLAIN)
def test_other_text_is_written_as_it_is(tmp_path, text):
    [_, line] = written(tmp_path / "a.csv", [[text, 1]]).read_text(encoding="utf-8").splitlines()
    assert line == f"{text},1"


@given(st.lists(st.text(st.characters(codec=None, categories=None), max_size=8), min_size=1, max_size=3))
def test_any_text_comes_back(tmp_path_factory, texts):
    path = written(tmp_path_factory.getbasetemp() / "any.csv", [[text, None] for text in texts])
    assert [row["=name"] for row in read_table(path)] == texts


def test_a_table_of_an_earlier_version_is_read(tmp_path):
    (tmp_path / "a.csv").write_bytes(b'path,reason\r\n"a\nb.png",broken\r\nno\xffutf8.png,broken\r\nshort\r\n')
    rows = list(read_table(tmp_path / "a.csv"))
    assert [row["path"] for row in rows] == ["a\nb.png", os.fsdecode(b"no\xffutf8.png"), "short"]
    assert "reason" not in rows[2]


def test_what_is_no_table_is_refused_by_name(tmp_path):
    (tmp_path / "a.csv").write_text('a\n"' + "x" * 200_000)
    with pytest.raises(ValueError, match=r"a\.csv is no table"):
        list(read_table(tmp_path / "a.csv"))


def test_every_table_is_written_and_read_here():
    """Other modules do not import csv."""
    sources = [path for name in ("volo", "jobs", "tune_spaces") for path in (ROOT / name).rglob("*.py")]
    found = [path.name for path in sources for node in ast.walk(ast.parse(path.read_text())) if _imports_csv(node)]
    assert found == ["tables.py"]


def _imports_csv(node: ast.AST) -> bool:
    names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
    return "csv" in names or (isinstance(node, ast.ImportFrom) and node.module == "csv")
