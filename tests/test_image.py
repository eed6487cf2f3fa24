"""The Dockerfile: checked as far as can be without Docker. Lines that install and the health check really run."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.cluster.conftest import ray_env as ray_env
from tests.cluster.conftest import started_head
from tests.limits import LIMIT_S

ROOT = Path(__file__).parents[1]
PACKAGES = ("volo", "jobs", "tune_spaces")


def instructions() -> list[tuple[str, str]]:
    """(instruction, its argument) of every instruction of the Dockerfile, continued lines joined, comments left out."""
    lines = [line for line in (ROOT / "Dockerfile").read_text().splitlines() if not line.lstrip().startswith("#")]
    logical = re.sub(r"\\\s*\n", " ", "\n".join(lines)).splitlines()
    return [tuple(line.strip().split(maxsplit=1)) for line in logical if line.strip()]


def arguments(name: str) -> list[str]:
    return [argument for instruction, argument in instructions() if instruction == name]


def copied() -> list[str]:
    """Paths that are copied from the build context."""
    words = [[word for word in argument.split() if not word.startswith("--")] for argument in arguments("COPY")]
    return [source for sources in words for source in sources[:-1]]


def environment() -> dict[str, str]:
    return dict(word.split("=", 1) for argument in arguments("ENV") for word in shlex.split(argument))


def ignored(path: str) -> bool:
    """Whether .dockerignore keeps `path` out of the image: the last pattern that meets it or a parent decides."""
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    is_out = False
    for line in (line.strip() for line in lines if line.strip() and not line.startswith("#")):
        pattern = re.escape(line.removeprefix("!").strip("/"))
        for wildcard, regex in ((r"\*\*/", "(?:.*/)?"), (r"\*\*", ".*"), (r"\*", "[^/]*"), (r"\?", "[^/]")):
            pattern = pattern.replace(wildcard, regex)
        if re.fullmatch(f"{pattern}(?:/.*)?", path):
            is_out = not line.startswith("!")
    return is_out


def pinned(name: str) -> str:
    spelled = re.sub("[-_]", "[-_]", name)
    pins = (ROOT / "constraints.txt").read_text()
    return re.search(rf"^{spelled}==(\S+)$", pins, re.MULTILINE | re.IGNORECASE).group(1)


def test_the_image_is_rays_own_of_the_version_that_is_pinned():
    [base] = arguments("FROM")
    assert re.fullmatch(rf"rayproject/ray:{re.escape(pinned('ray'))}-py3(\d+)-\$\{{DEVICE\}}", base)
    assert instructions()[0] == ("ARG", "DEVICE=gpu")


def test_the_image_ends_as_a_user_that_is_not_root():
    assert arguments("USER")[-1].split(":")[0] not in {"root", "0"}


def test_the_image_runs_any_command_in_app_and_shows_help_by_default():
    assert arguments("WORKDIR") == ["/app"]
    assert arguments("ENTRYPOINT") == []
    [command] = arguments("CMD")
    assert json.loads(command) == ["python", "-m", "jobs.train", "--help"]


def test_folders_that_are_written_at_run_time_are_open_to_any_uid():
    [made] = re.findall(r"install -d -m 1777 ([^&]+)", " ".join(arguments("RUN")))
    pointed_to = {environment()[name] for name in ("HOME", "VOLO_CACHE_DIR", "MPLCONFIGDIR")}
    mounted = {"/app/data", "/app/outputs", "/app/checkpoints"}
    assert (pointed_to | mounted) - set(made.split()) == set()


def test_the_cache_is_a_volume():
    assert arguments("VOLUME") == [environment()["VOLO_CACHE_DIR"]]


def test_the_python_of_the_image_is_within_reach_of_any_uid():
    assert "chmod a+rx /home/ray" in " ".join(arguments("RUN"))


def test_all_that_is_copied_exists_and_is_in_the_build_context():
    assert [path for path in copied() if not (ROOT / path).exists()] == []
    assert [path for path in copied() if ignored(path)] == []


def test_all_packages_are_copied():
    assert set(PACKAGES) <= set(copied())


def test_pytorch_is_installed_before_the_other_packages_and_those_before_the_code_is_copied():
    steps = instructions()
    torch = next(number for number, step in enumerate(steps) if step[0] == "RUN" and "torch==" in step[1])
    pins = next(number for number, step in enumerate(steps) if step[0] == "COPY" and "constraints.txt" in step[1])
    install = next(number for number, step in enumerate(steps) if step[0] == "RUN" and "-c constraints.txt" in step[1])
    code = next(number for number, step in enumerate(steps) if step[0] == "COPY" and "volo" in step[1].split())
    assert torch < pins < install < code
    assert any("--no-deps" in argument for instruction, argument in steps[code:] if instruction == "RUN")


def test_all_is_kept_out_of_the_build_but_what_is_copied():
    assert {path.name for path in ROOT.iterdir() if not ignored(path.name)} == {*copied()}


@pytest.mark.parametrize(
    "path", ["data/cifar100/a", "outputs/run", ".venv/bin/python", ".git/config", ".env", "x/volo"]
)
def test_data_results_environment_history_and_keys_stay_out_of_the_image(path):
    assert ignored(path)


def test_no_file_of_the_packages_is_kept_out_of_the_image():
    files = [path for package in PACKAGES for path in (ROOT / package).rglob("*") if path.is_file()]
    names = [str(path.relative_to(ROOT)) for path in files if "__pycache__" not in path.parts]
    assert [name for name in names if ignored(name)] == []
    assert ignored("volo/data/__pycache__/cache.cpython-311.pyc")


def installs() -> list[str]:
    """The lines that install packages."""
    return [argument for argument in arguments("RUN") if "pip install" in argument]


PIP = """#!/bin/sh
echo "$@" >> "$ASKED"
exec {python} -m pip "$@" --dry-run --no-index --no-build-isolation
"""


@pytest.fixture
def build(tmp_path) -> Callable[..., list[str]]:
    """Runs a line of the Dockerfile in a folder with what is copied, with build arguments; returns pip's own arguments.

    pip resolves what it is asked for, among what is installed here, and installs nothing."""
    for path in copied():
        source = ROOT / path
        (shutil.copytree if source.is_dir() else shutil.copy)(source, tmp_path / path)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").symlink_to(sys.executable)
    (tmp_path / "bin" / "pip").write_text(PIP.format(python=shlex.quote(sys.executable)))
    (tmp_path / "bin" / "pip").chmod(0o755)

    def run(line: str, **given: str) -> list[str]:
        defaults = dict(argument.split("=") for argument in arguments("ARG") if "=" in argument)
        path = f"{tmp_path}/bin:{os.environ['PATH']}"
        env = {**os.environ, "PATH": path, "ASKED": f"{tmp_path}/asked", **defaults, **given}
        command = ["sh", "-c", line.replace("/tmp/", f"{tmp_path}/")]
        done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return (tmp_path / "asked").read_text().split()

    return run


def test_the_pytorch_of_the_image_is_the_one_that_is_pinned_and_pip_finds_it(build):
    assert f"TORCH={pinned('torch')}" in arguments("ARG")
    assert build(installs()[0]) == ["install", "--no-cache-dir", f"torch=={pinned('torch')}"]


def test_an_index_of_other_builds_of_pytorch_is_passed_on_to_pip_which_takes_them_for_the_pinned_version(build):
    given = build(installs()[0], TORCH_INDEX="http://127.0.0.1:1/cpu")
    assert given == ["install", "--no-cache-dir", "--index-url", "http://127.0.0.1:1/cpu", f"torch=={pinned('torch')}"]
    assert Requirement(f"torch=={pinned('torch')}").specifier.contains(f"{pinned('torch')}+cpu")


def test_the_packages_of_the_image_are_the_projects_and_pip_resolves_them_under_the_constraints(build, tmp_path):
    build(installs()[1].replace("&& rm /tmp/requirements.txt", ""))
    listed = [Requirement(line) for line in (tmp_path / "requirements.txt").read_text().splitlines()]
    assert {"torch", "ray", "obstore", "pillow-heif"} <= {one.name for one in listed}
    assert all(one.specifier.contains(pinned(one.name)) for one in listed)


def test_the_code_of_the_image_is_a_package_that_pip_takes(build):
    assert build(installs()[2]) == ["install", "--no-cache-dir", "--no-deps", "-e", "."]


WITHOUT_TRITON = """
import sys
sys.modules["triton"] = None  # PyTorch brings it with its CUDA libraries alone
import torch, volo
model = volo.create_model("quickstart", num_classes=3)
model(torch.zeros(2, 3, 32, 32)).sum().backward()
"""


@pytest.mark.slow
def test_a_model_trains_on_a_cpu_without_what_only_a_gpus_pytorch_brings():
    done = subprocess.run([sys.executable, "-c", WITHOUT_TRITON], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def health(cwd: Path, env: dict[str, str]) -> int:
    """What Docker would learn of a container; 1 also where it would wait in vain."""
    [check] = arguments("HEALTHCHECK")
    flags, _, command = check.partition(" CMD ")
    limit = int(re.search(r"--timeout=(\d+)s", flags)[1])
    try:
        return subprocess.run(["sh", "-c", command], cwd=cwd, env=env, timeout=limit, capture_output=True).returncode
    except subprocess.TimeoutExpired:
        return 1


@pytest.fixture
def container(ray_env, tmp_path) -> dict[str, str]:
    """The environment of a container in which no Ray has started."""
    return ray_env | {"RAY_TMPDIR": str(tmp_path)}


def test_a_container_for_one_command_is_well_as_long_as_python_finds_the_code(container, tmp_path):
    assert health(ROOT, container) == 0
    (tmp_path / "volo.py").write_text("import no_such_module")
    assert health(tmp_path, container) == 1


@pytest.mark.ray
@pytest.mark.slow
def test_a_container_in_which_ray_has_started_is_well_as_long_as_the_cluster_answers(container, tmp_path):
    with started_head(container, num_cpus=1) as head:
        command = Path(f"/proc/{head.session}/cmdline").read_text().split("\0")
        [folder] = [word.partition("=")[2] for word in command if word.startswith("--temp-dir=")]
        (tmp_path / "ray").mkdir()
        written, deadline = Path(folder) / "ray_current_cluster", time.monotonic() + LIMIT_S
        while not (written.exists() and written.read_text()) and time.monotonic() < deadline:
            time.sleep(0.05)  # Ray fills it a moment after it says that it has started
        address = shutil.copy(written, tmp_path / "ray")
        assert Path(address).read_text() == head.address
        assert health(ROOT, container) == 0
    assert health(ROOT, container) == 1
