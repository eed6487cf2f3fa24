"""`volo` as a user meets it: which commands there are, what it says of itself, how it is started."""

import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import volo
from volo.cli.main import COMMANDS, module_of
from volo.cli.short_help import COMMON, COMMON_OF_SEARCH

ROOT = Path(__file__).parents[3]
SCREEN = 70  # lines of 100 columns, with the command's own text
WITH_SETTINGS = ("train", "tune", "pipeline", "doctor")


def said(*argv: str, module: str = "volo", code: int = 0) -> str:
    """What `python -m MODULE ARGV` prints: its output if it ends well, else its errors."""
    done = subprocess.run([sys.executable, "-m", module, *argv], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    return done.stderr if code else done.stdout


def helped(capsys, command: str, *argv: str) -> str:
    """The help that a command prints in this process."""
    with pytest.raises(SystemExit, match="0"):
        import_module(module_of(command)).main(argv)
    return capsys.readouterr().out


def flags_in(text: str) -> set[str]:
    return set(re.findall(r"^. (--[a-z0-9-]+)", text, re.MULTILINE))


def test_help_lists_every_command_and_how_to_complete_them():
    listed = re.findall(r"^  (\w+)  ", said("--help"), re.MULTILINE)
    assert listed == [*COMMANDS]
    assert 'eval "$(volo completion bash)"' in said("--help")
    assert said() == said("-h") == said("--help")


def test_every_command_is_a_module_with_a_main_and_every_job_a_command():
    assert all(callable(import_module(module_of(name)).main) for name in COMMANDS)
    jobs = {path.stem for path in (ROOT / "jobs").glob("*.py")} - {"__init__"}
    assert jobs - COMMANDS.keys() == set()


def test_the_version_is_that_of_the_package():
    assert said("--version") == f"volo {volo.__version__}\n"


@pytest.mark.parametrize(("typed", "meant"), [("trian", "train"), ("analyse", "analyze"), ("Tune", "tune")])
def test_an_unknown_command_names_the_nearest(typed, meant):
    assert said(typed, code=2).endswith(f"got {typed!r}; did you mean volo {meant}?\n")


def test_a_word_that_is_near_no_command_is_refused_with_the_list():
    refused = said("xyz", code=2)
    assert refused.endswith("got 'xyz'; volo --help lists them\n")
    assert ", ".join(COMMANDS) in refused


def test_the_usage_line_names_the_program_as_it_was_started():
    assert said("train", "--help").startswith("usage: volo train ")
    assert said("--help", module="jobs.train").startswith("usage: python -m jobs.train ")


def test_a_refusal_has_the_same_words_and_code_however_the_command_was_started():
    assert said("train", "--epochs", "0", code=2) == said("--epochs", "0", module="jobs.train", code=2)


@pytest.mark.parametrize("command", WITH_SETTINGS)
def test_help_of_a_command_with_settings_is_about_a_screen_and_names_the_way_to_all_flags(capsys, monkeypatch, command):
    monkeypatch.setenv("COLUMNS", "100")
    argv = ["--space", "mix"] if command == "pipeline" else []
    short, full = helped(capsys, command, *argv, "--help"), helped(capsys, command, *argv, "--help-all")
    assert len(short.splitlines()) <= SCREEN < 200 < len(full.splitlines())
    assert "--help-all" in short
    assert flags_in(short) < flags_in(full)
    assert {"--recipe", "--dataset", "--epochs", "--output-dir"} <= flags_in(short)
    assert helped(capsys, command, *argv, "-h") == short


def test_every_common_flag_is_one(capsys):
    assert len(flags_in(helped(capsys, "train", "--help"))) == len(COMMON)
    of_search = flags_in(helped(capsys, "pipeline", "--space", "mix", "--help"))
    assert {f"--{name.replace('_', '-')}" for name in COMMON_OF_SEARCH} <= of_search


def test_short_help_of_a_sweep_shows_its_common_options_as_full_help_does(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    short, full = helped(capsys, "tune", "--help"), helped(capsys, "tune", "--help-all")
    words = " ".join(re.sub("│", " ", full).split())
    for flag in ("--space", "--num-samples", "--sampler"):
        lines = re.search(rf"^. {flag} .*?(?=^. --|^╰)", short, re.MULTILINE | re.DOTALL)[0]
        assert " ".join(re.sub("│", " ", lines).split()) in words
    assert "--reduction-factor" in flags_in(full) - flags_in(short)


@pytest.mark.parametrize("command", sorted(COMMANDS.keys() - {*WITH_SETTINGS}))
def test_help_all_of_a_command_without_settings_is_its_help(capsys, command):
    assert helped(capsys, command, "--help") == helped(capsys, command, "--help-all")
