"""`volo recipes`, `volo spaces` and `volo completion`: what they say is what there is."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import tune_spaces
from volo.cli.about import completion, recipes, spaces
from volo.cli.main import COMMANDS
from volo.cli.parse import parse_settings
from volo.settings.recipes import RECIPES
from volo.tuning.search.library import library, space_names
from volo.tuning.search.spaces import load_space


@pytest.fixture(autouse=True)
def wide(monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")


def test_every_recipe_is_listed_with_what_to_expect_and_a_command_that_is_accepted(capsys):
    recipes.main([])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if not line.startswith(" ")] == [*RECIPES]
    assert {recipe().expects for recipe in RECIPES.values()} <= {line.split(maxsplit=1)[1] for line in lines[::3]}
    for name, command in zip(RECIPES, lines[2::3], strict=True):
        program, job, *flags = command.split()
        assert (program, job in COMMANDS) == ("volo", True)
        assert parse_settings(flags, prog="", description="").recipe == name


def test_every_space_is_listed_with_recipe_metric_and_cost(capsys):
    spaces.main([])
    printed = capsys.readouterr().out
    for name in space_names(tune_spaces):
        space = load_space(name, tune_spaces)
        assert f"recipe {space.recipe}, for the highest {space.metric}" in printed
        module = sys.modules[f"tune_spaces.{name}"]
        assert module.__doc__.splitlines()[0] in printed
        assert f"cost of a trial: {module.COST}" in printed
    assert printed.splitlines()[-1] == f"files: {Path(tune_spaces.__file__).parent}"


def test_the_library_found_by_its_place_is_the_folder_of_the_checkout():
    assert library().__path__ == [str(Path(tune_spaces.__file__).parent)]


@pytest.fixture
def script(capsys, tmp_path) -> Path:
    with pytest.raises(SystemExit):
        completion.main(["bash"])
    (tmp_path / "volo.bash").write_text(capsys.readouterr().out)
    return tmp_path / "volo.bash"


WORDS = {
    "volo ": [*COMMANDS],
    "volo tr": ["train"],
    "volo train --batch": ["--batch-size"],
    "volo train --help-": ["--help-all"],
    "volo train --model volo_d": ["volo_d1", "volo_d2", "volo_d3", "volo_d4", "volo_d5"],
    "volo tune --sampler ": ["tpe", "random", "grid"],
    "volo pipeline --winner": ["--winner-epochs"],
    "volo analyze --analysis conf": ["confusion"],
}


def test_bash_completes_commands_flags_and_values(script):
    if shutil.which("bash") is None:
        pytest.skip("bash is not installed")
    complete = """
        . "$1"; shift
        [ "$(complete -p volo)" = "complete -F _tyro_volo volo" ] || exit 1
        for line; do
            read -ra COMP_WORDS <<< "$line"
            case "$line" in *" ") COMP_WORDS+=("");; esac
            COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
            _tyro_volo
            echo "${COMPREPLY[@]}"
        done
    """
    command = ["bash", "-c", complete, "bash", str(script), *WORDS]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    completed = dict(zip(WORDS, map(str.split, done.stdout.splitlines()), strict=True))
    assert {word for word in completed.pop("volo ") if not word.startswith("-")} == {*WORDS["volo "]}
    assert completed == {line: words for line, words in WORDS.items() if line != "volo "}


@pytest.mark.parametrize(("shell", "registers"), [("zsh", "#compdef volo"), ("fish", "complete --no-files")])
def test_other_shells_get_a_script_that_registers_volo(shell, registers, capsys):
    with pytest.raises(SystemExit):
        completion.main([shell])
    assert registers in capsys.readouterr().out
