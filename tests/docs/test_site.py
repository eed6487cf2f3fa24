"""The site: what is filled into its pages, and that it is built without a warning and loads nothing from elsewhere."""

import importlib.util
import re
import subprocess
import sys
from types import ModuleType

import pytest

from tests.docs.pages import ROOT, SITE, text_of
from volo.cli import train
from volo.settings.recipes import RECIPES


@pytest.fixture(scope="module")
def hooks() -> ModuleType:
    spec = importlib.util.spec_from_file_location("hooks", ROOT / "docs" / "hooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_settings_page_has_every_flag_of_training_and_no_other(hooks, capsys):
    with pytest.raises(SystemExit):
        train.main(["--help-all"])
    offered = set(re.findall(r"^(?:│ |  )(--[a-z][a-z0-9-]*)", capsys.readouterr().out, re.MULTILINE))
    page = hooks.filled(text_of("docs/settings.md"))
    listed = set(re.findall(r"^\| `(--[a-z][a-z0-9-]*)`", page, re.MULTILINE))
    switches = {f"--no-{flag[2:]}" for flag in listed}
    assert offered - listed - switches - {"--help", "--help-all"} == set()
    assert listed - offered == set()


def test_the_settings_page_says_default_range_and_meaning(hooks):
    page = hooks.filled(text_of("docs/settings.md"))
    [row] = re.findall(r"^\| `--label-smoothing`.*$", page, re.MULTILINE)
    assert re.fullmatch(r"\| `--label-smoothing` \| `0.1` \| float, at least 0, below 1 \| \w.* \|", row)


def test_every_recipe_stands_in_the_table_of_recipes(hooks):
    table = hooks.filled(text_of("docs/models.md"))
    assert [name for name, recipe in RECIPES.items() if f"| `{name}` | {recipe().expects} |" not in table] == []


def test_no_marker_is_left_on_a_page(hooks):
    assert [page for page in SITE if re.search(r"<!-- (?!layers)", hooks.filled(text_of(page)))] == []


def test_a_root_document_that_links_outside_the_site_fails_the_build(hooks, monkeypatch, tmp_path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "page.md").write_text("[code](volo/log.py)")
    monkeypatch.setattr(hooks, "ROOT", tmp_path)
    with pytest.raises(ValueError, match=r"page\.md links to volo/log\.py"):
        hooks.included("page.md")


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.html", '<script src="https://cdn.example/x.js"></script>', ["https://cdn.example/x.js"]),
        ("a.html", '<link rel="stylesheet" href="//fonts.example/x.css">', ["//fonts.example/x.css"]),
        ("a.html", '<a href="https://arxiv.org">a link</a><script src="assets/x.js"></script>', []),
        ("a.css", "@font-face{src:url(https://fonts.example/x.woff2)}", ["https://fonts.example/x.woff2"]),
        ("a.css", "a{background:url(x.png)}", []),
    ],
)
def test_what_a_page_would_load_from_elsewhere_is_found(hooks, tmp_path, name, content, expected):
    (tmp_path / name).write_text(content)
    assert hooks.loaded_from_elsewhere(tmp_path / name) == expected


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(tmp_path):
    pytest.importorskip("mkdocs")
    argv = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(argv, cwd=ROOT, env={"PATH": "", "PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    pages = {str(path.relative_to(tmp_path / "site")) for path in (tmp_path / "site").glob("*.html")}
    assert pages >= {page.removeprefix("docs/").replace(".md", ".html") for page in SITE}
