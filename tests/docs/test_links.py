"""What the documents point at exists: links, files, tests, and names in files."""

import ast
import re
import subprocess

import pytest

from tests.docs.pages import PAGES, ROOT, spans, text_of
from tests.test_imports import LAYERS

LINK = re.compile(r"\]\((?!https?://)([^)\s]+)\)")
FILE = re.compile(r"(?:volo|jobs|tests|tune_spaces|benchmarks|docs)/[\w./-]*|\w[\w.-]*\.(?:md|py|toml|yml)")
OF_A_USER = {"my_space.py", "path/to/file.py", "utils.py", "volo/tune_spaces/"}  # the last in a wheel
ARCHITECTURE = "docs/architecture.md"


@pytest.fixture(scope="module")
def tracked() -> set[str]:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git repository, so nothing says which files belong to it")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(listed.stdout.split("\0")) - {""}


def anchors(page: str) -> set[str]:
    titles = re.findall(r"^#+ (.*)$", text_of(page), re.MULTILINE)
    return {re.sub(r"[^\w\s-]", "", title.replace("`", "")).strip().lower().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files_under_version_control_and_to_titles_in_them(page, tracked):
    for link in LINK.findall(text_of(page)):
        path, _, anchor = link.partition("#")
        target = str((ROOT / page).parent.joinpath(path).resolve().relative_to(ROOT)) if path else page
        assert target in tracked, link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("page", PAGES)
def test_files_that_a_page_names_are_there(page, tracked):
    """By their whole path or, where the row or sentence has named the folder, by their name."""
    named = {span for span in spans(page) if FILE.fullmatch(span)} - OF_A_USER
    folders = {f"{path.rsplit('/', 1)[0]}/" for path in tracked if "/" in path}
    known = tracked | {path.rsplit("/", 1)[-1] for path in tracked}
    known |= {folder[: end + 1] for folder in folders for end, letter in enumerate(folder) if letter == "/"}
    known |= {folder.rstrip("/") for folder in known if folder.endswith("/")}
    assert named - known == set()


def test_the_tests_that_hold_what_a_run_survives_are_named_in_every_row():
    table = text_of("docs/reliability.md").partition("## What a run survives")[2]
    rows = re.findall(r"^\| \d+ \|.*$", table, re.MULTILINE)
    assert len(rows) == 21
    assert [row for row in rows if "`tests/" not in row] == []


def architecture_rows(columns: int) -> list[list[str]]:
    lines = [line.strip("| ").split(" | ") for line in text_of(ARCHITECTURE).splitlines() if line.startswith("| ")]
    return [cells for cells in lines if len(cells) == columns]


def test_the_rooms_and_layers_of_the_architecture_page_are_those_that_the_imports_are_held_to():
    rows = [cells for cells in architecture_rows(3) if cells[0].isdigit()]
    found: dict[int, set[str]] = {}
    for layer, rooms, _ in rows:
        found.setdefault(int(layer), set()).update(re.findall(r"volo/(\w+)", rooms))
    assert tuple(found[number] for number in sorted(found)) == LAYERS


TASKS = [cells for cells in architecture_rows(3) if cells[1].startswith("`") and not cells[0].isdigit()]


@pytest.mark.parametrize(("task", "file", "rest"), TASKS, ids=[cells[0][:50] for cells in TASKS])
def test_the_names_beside_a_file_are_defined_there(task, file, rest):
    """Names before the first semicolon are in the file of the row; later ones in the files named with them."""
    names = re.findall(r"`(\w+)`", rest.split(";")[0])
    path = ROOT / file.strip("`")
    if path.suffix == ".py":
        assert [name for name in names if name not in defined(path.read_text())] == []
    for name, other in re.findall(r"`(\w+)` (?:of|is) `([\w/]+\.py)`", rest):
        assert name in defined((ROOT / other).read_text())


def test_a_name_that_the_architecture_page_places_in_a_file_is_defined_there():
    placed = re.findall(r"`(\w+)` in\s+`([\w/]+\.py)`", text_of(ARCHITECTURE))
    assert len(placed) > 10
    assert [(name, file) for name, file in placed if name not in defined((ROOT / file).read_text())] == []


def defined(source: str) -> set[str]:
    """Classes, functions, methods and constants of a module."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.add(node.target.id)
    return names


def test_the_numbers_on_the_readmes_first_screen_stand_in_the_results():
    results = text_of("benchmarks/RESULTS.md")
    _, _, table = text_of("README.md").partition("| what | measured on | result |")
    rows = table.split("\n\n")[0].splitlines()[2:]
    numbers = {number for row in rows for number in re.findall(r"\d+\.\d+", row)}
    assert len(rows) == 9
    assert {number for number in numbers if number not in results} == set()
