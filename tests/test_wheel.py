"""The wheel: what it holds, and that it works without a clone, installed into a fresh environment."""

import os
import re
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

import tune_spaces
import volo
from tests.training.runs import losses
from volo.tuning.search.library import space_names
from volo.tuning.search.spaces import load_space

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
BUILD = "import os, sys; from hatchling import build; os.chdir(sys.argv[1]); print(build.build_wheel(sys.argv[2]))"
Run = Callable[..., subprocess.CompletedProcess]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built as pip does, by the backend that pyproject.toml names."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-c", BUILD, str(ROOT), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder / done.stdout.split()[-1]


@pytest.fixture(scope="module")
def unpacked(wheel, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("unpacked")
    zipfile.ZipFile(wheel).extractall(folder)
    return folder


def files_below(folder: Path) -> set[str]:
    paths = (path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {str(path.relative_to(folder)) for path in paths}


def metadata(unpacked: Path) -> str:
    [file] = unpacked.glob("*.dist-info/METADATA")
    return file.read_text()


def test_the_wheel_claims_the_name_volo_alone(wheel, unpacked):
    assert {path.name for path in unpacked.iterdir()} == {"volo", f"volo-{volo.__version__}.dist-info"}


def test_the_wheel_holds_every_file_of_the_package_and_of_the_spaces_and_no_other(unpacked):
    spaces = {f"tune_spaces/{path}" for path in files_below(ROOT / "tune_spaces")}
    assert files_below(unpacked / "volo") == files_below(ROOT / "volo") | spaces
    assert "py.typed" in files_below(unpacked / "volo")


def test_the_version_stands_in_one_place(unpacked):
    assert re.search(r"^Version: (.*)$", metadata(unpacked), re.MULTILINE)[1] == volo.__version__
    assert "version" not in PYPROJECT["project"]


def test_the_wheel_says_what_it_is_and_needs(unpacked):
    said = metadata(unpacked)
    for line in ("License-Expression: MIT", "Classifier: Typing :: Typed", "Project-URL: Paper, https://arxiv.org/"):
        assert line in said
    assert said.count("\nRequires-Dist: ") >= len(PYPROJECT["project"]["dependencies"])


@pytest.fixture
def run(unpacked, tmp_path) -> Run:
    """Runs `python -m volo ARGV` with the wheel's files, from an empty folder."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "PYTHON"))}

    def run(*argv: str, code: int = 0) -> subprocess.CompletedProcess:
        # Without the working directory, and before an installation that may lie in the environment.
        start = f"import runpy, sys; sys.path.insert(0, {str(unpacked)!r}); sys.argv[0] = 'volo'; "
        command = [sys.executable, "-I", "-c", start + "runpy.run_module('volo', run_name='__main__')", *argv]
        done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
        assert done.returncode == code, done.stdout + done.stderr
        return done

    return run


def test_without_a_clone_volo_answers_and_finds_its_spaces(run, unpacked):
    assert run("--version").stdout == f"volo {volo.__version__}\n"
    assert run("spaces").stdout.splitlines()[-1] == f"files: {unpacked / 'volo' / 'tune_spaces'}"
    assert "recipe: nano\n" in run("tune", "--space", "architecture", "--print-config").stdout
    names = ", ".join(space_names(tune_spaces))
    assert f"--space must be one of {names}, or a path" in run("tune", "--space", "none", code=2).stderr


def test_the_spaces_of_the_wheel_are_those_of_the_checkout_to_a_sweep_that_resumes(run, unpacked):
    """The sha256 of a space's files is what a sweep compares."""
    code = (
        "import sys; sys.path.insert(0, sys.argv.pop(1)); from volo.tuning.search import library, spaces; "
        "package = library.library(); "
        "print({name: spaces.load_space(name, package).source for name in library.space_names(package)})"
    )
    command = [sys.executable, "-I", "-c", code, str(unpacked)]
    found = subprocess.run(command, cwd=unpacked, capture_output=True, text=True, check=True).stdout
    here = {name: load_space(name, tune_spaces).source for name in space_names(tune_spaces)}
    assert found.strip() == str(here)


def test_doctor_tells_how_to_install_a_wheel_and_misses_no_file_of_a_checkout(unpacked):
    code = (
        "import sys; sys.path.insert(0, sys.argv.pop(1)); from volo.doctor import versions; "
        "print(versions.check_tested_versions(), versions.INSTALL)"
    )
    command = [sys.executable, "-I", "-c", code, str(unpacked)]
    said = subprocess.run(command, cwd=unpacked, capture_output=True, text=True, check=True).stdout
    assert said == "[] pip install the wheel of volo again, which brings what it needs\n"


def test_a_users_own_space_may_build_on_those_of_the_wheel(run, tmp_path):
    text = "from tune_spaces import mix\nMETRIC, MODE, RECIPE = 'val/acc1', 'max', 'tiny'\nspace = mix.space\n"
    (tmp_path / "own.py").write_text(text)
    assert "recipe: tiny\n" in run("tune", "--space", "own.py", "--print-config").stdout


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """The folder of programs of a fresh environment with the wheel in it, which sees the packages installed here."""
    folder = tmp_path_factory.mktemp("fresh")
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    python = folder / "bin" / "python"
    install = [str(python), "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", str(wheel)]
    subprocess.run(install, check=True, env=without_paths())
    site = sysconfig.get_path("purelib", vars={"base": str(folder)})
    (Path(site) / "here.pth").write_text("\n".join(path for path in sys.path if path.endswith("-packages")))
    return folder / "bin"


def without_paths() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "PYTHON"))}


@pytest.mark.slow
@pytest.mark.ray
def test_the_installed_wheel_trains_searches_and_examines_from_an_empty_folder(installed, tmp_path):
    def volo_runs(*argv: str) -> str:
        command = [str(installed / "volo"), *argv]
        done = subprocess.run(command, cwd=tmp_path, env=without_paths(), capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert "train       " in volo_runs("--help")
    quickstart = ("--recipe", "quickstart", "--max-steps", "20")
    volo_runs("train", *quickstart, "--num-workers", "0", "--run-name", "here")
    volo_runs("train", *quickstart, "--num-workers", "1", "--run-name", "ray")
    outputs = tmp_path / "outputs"
    assert [*losses(outputs / "ray")] == [*losses(outputs / "here")] == [10, 20]
    shapes = ("--dataset", "shapes", "--train-images", "640", "--epochs", "1", "--pruner", "none")
    volo_runs("tune", "--space", "mix", "--num-samples", "2", *shapes)
    assert len((outputs / "tune-mix" / "trials.csv").read_text().splitlines()) == 3
    assert "0 failures" in volo_runs("doctor", "--recipe", "quickstart")
    assert "here" in volo_runs("runs")
