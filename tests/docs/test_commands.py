"""Every command in the documents is parsed by the program that it names."""

import re
import shlex
import shutil
import subprocess

import pytest

from tests.docs.commands import COMMANDS, OTHERS, command_in, parse
from tests.docs.pages import PAGES, ROOT, Block, blocks, python_of, shell_lines, spans, words_of
from volo.cli import train
from volo.cli.outcome import exit_code
from volo.settings.config import build_settings

LANGUAGES = {"python", "sh", "console", "yaml", "csv", ""}  # csv: tests/data/folders/test_table.py
TREE = re.compile(r"^(outputs|volo)/")  # a listing of a folder, the only use of a block without a language
ALL_BLOCKS = [block for page in PAGES for block in blocks(page)]
SHELL = [block for block in ALL_BLOCKS if block.language in ("sh", "console")]
# Each command once, with a place where it stands.
LINES = {shlex.join(words_of(line)): str(block) for block in SHELL for line in shell_lines(block)}
OURS = re.compile(r"(volo|python|torchrun|ray job) .*--")
SPANS = {span for page in PAGES for span in spans(page) if OURS.match(span)} - LINES.keys()


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with the files that commands name: settings, and the search space of the tuning page."""
    (tmp_path / "outputs" / "first").mkdir(parents=True)
    for name in ("outputs/first/best_config.yaml", "my.yaml"):
        (tmp_path / name).write_text(build_settings({}).to_yaml())
    (tmp_path / "my_space.py").write_text(next(code for code in python_of("docs/tuning.md") if "def space" in code))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return tmp_path


@pytest.mark.parametrize("block", ALL_BLOCKS, ids=str)
def test_every_block_is_of_a_kind_that_some_test_runs(block: Block):
    assert block.language in LANGUAGES
    assert block.language or TREE.match(block.text), "name the language of this block"


@pytest.mark.parametrize("line", LINES, ids=lambda line: f"{LINES[line]} {line[:50]}")
def test_every_line_of_a_shell_block_is_accepted(line, place):
    for words in commands_of(words_of(line)):
        accept(words)


@pytest.mark.parametrize("span", sorted(SPANS))
def test_every_command_in_the_running_text_is_accepted(span, place):
    accept(words_of(span))


def commands_of(words: list[str]) -> list[list[str]]:
    """What stands between `&&`."""
    ends = [number for number, word in enumerate(words) if word == "&&"]
    return [words[start:end] for start, end in zip([0, *(end + 1 for end in ends)], [*ends, None], strict=True)]


def accept(words: list[str]) -> None:
    while re.fullmatch(r"[A-Z_]+=\S+", words[0]):
        words = words[1:]
    command = command_in(words)
    if command is not None:
        assert command.name in COMMANDS
        assert command.behind is None or command.behind in OTHERS
        parse(command)
    elif words[0] == "make":
        dry_run(words[1:])
    elif words[:3] == ["python", "-m", "pip"]:
        accept(words[2:])
    elif words[:2] == ["python", "-m"]:
        accept_module(words[2], words[3:])
    elif words[0] == "pytest":
        assert [word for word in words[1:] if word.startswith("tests/") and not (ROOT / word).exists()] == []
    elif words[0] == "volo":
        assert words[1:] == ["--help"], "no such command"
    else:
        assert words[0] in OTHERS, f"{words[0]} is no program that a test knows; see tests/docs/commands.py"


def accept_module(name: str, flags: list[str]) -> None:
    """A module of this repository that is no command, such as a benchmark: it exists and its source has the flags."""
    place = ROOT.joinpath(*name.split("."))
    path = place / "__main__.py" if place.is_dir() else place.with_suffix(".py")
    known = path.read_text() + (ROOT / "benchmarks" / "timing.py").read_text()
    assert [flag for flag in flags if flag.startswith("--") and f'"{flag.split("=")[0]}"' not in known] == []


def dry_run(words: list[str]) -> None:
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    subprocess.run(["make", "--dry-run", *words], cwd=ROOT, capture_output=True, check=True)


@pytest.mark.parametrize("block", [block for block in ALL_BLOCKS if block.language == "yaml"], ids=str)
def test_every_file_of_settings_is_accepted(block, tmp_path):
    (tmp_path / "settings.yaml").write_text(block.text)
    assert exit_code(train.main, ["--config", str(tmp_path / "settings.yaml"), "--print-config"]) == 0


@pytest.mark.parametrize(
    "wrong",
    ["volo train --no-such-flag 3", "volo trian --epochs 3", "python -m benchmarks.restart --wrong", "frob"],
)
def test_a_wrong_line_would_be_noticed(wrong, place):
    with pytest.raises((AssertionError, SystemExit)):
        accept(words_of(wrong))
