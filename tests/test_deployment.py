"""Clusters and make: checked as far as files can be, without Docker, a cloud account or a network."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.specifiers import SpecifierSet
from ray.autoscaler._private.util import prepare_config, validate_config

import volo
from tests.cluster.metadata import metadata_service, respond
from tests.test_image import PACKAGES, environment, pinned
from volo.cli.parse import parse_settings
from volo.cluster.metadata import ENDPOINT_VARIABLE

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def cluster() -> dict:
    """cluster.yaml with Ray's defaults filled in."""
    return prepare_config(yaml.safe_load((ROOT / "cluster.yaml").read_text()))


def test_ray_accepts_the_cluster(cluster):
    validate_config(cluster)


def test_the_cluster_is_one_head_without_gpu_and_gpu_workers_started_on_demand(cluster):
    types = dict(cluster["available_node_types"])
    head = types.pop(cluster["head_node_type"])
    assert (head["max_workers"], head["resources"].get("GPU", 0)) == (0, 0)
    [workers] = types.values()
    assert workers["min_workers"] == 0
    assert 0 < workers["max_workers"] <= cluster["max_workers"]
    assert workers["resources"]["GPU"] >= 1


@pytest.mark.parametrize("commands", ["head_start_ray_commands", "worker_start_ray_commands"])
def test_every_node_starts_ray_with_token_authentication(cluster, commands):
    [start] = [command for command in cluster[commands] if "ray start" in command]
    assert start.index("export RAY_AUTH_MODE=token") < start.index("ray start")


def test_every_shell_of_the_cluster_uses_the_token(cluster):
    commands = cluster["initialization_commands"]
    assert any("RAY_AUTH_MODE=token" in command and "~/.bashrc" in command for command in commands)


def test_the_token_is_copied_from_the_user_and_readable_for_its_owner_alone(cluster):
    assert cluster["file_mounts"][f"/home/{cluster['auth']['ssh_user']}/.ray/auth_token"] == "~/.ray/auth_token"
    assert any("chmod 600 ~/.ray/auth_token" in command for command in cluster["initialization_commands"])
    assert "RAY_AUTH_TOKEN=" not in (ROOT / "cluster.yaml").read_text()


@pytest.mark.skipif(not (shutil.which("setsid") and shutil.which("flock")), reason="needs setsid and flock")
def test_a_worker_watches_for_the_end_of_its_machine_in_the_background_once(cluster, tmp_path):
    start, watch = cluster["worker_start_ray_commands"][-2:]
    assert "ray start" in start and "export RAY_AUTH_MODE=token" in watch
    logs = tmp_path / "ray" / "session_latest" / "logs"
    for folder in (logs, tmp_path / "venv" / "bin"):
        folder.mkdir(parents=True)
    program = tmp_path / "venv" / "bin" / "volo"
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m volo "$@"\n')
    program.chmod(0o755)
    command = watch.replace("/tmp/ray", str(tmp_path / "ray"))
    asked, answered = threading.Event(), threading.Event()

    def refuse(handler) -> None:
        asked.set()
        answered.wait()
        respond(handler, 404)

    with metadata_service() as aws:
        aws.fault = refuse
        env = {**os.environ, "HOME": str(tmp_path), ENDPOINT_VARIABLE: aws.url, "PYTHONPATH": str(ROOT)}
        assert subprocess.run(["bash", "-c", command], env=env).returncode == 0
        assert asked.wait(60)
        second = subprocess.run(["bash", "-c", command.replace("--fork", "--wait")], env=env)
        assert second.returncode == 1
        answered.set()
        subprocess.run(["flock", str(tmp_path / ".volo-spot.lock"), "true"], check=True, timeout=60)
    lines = (logs / "volo-spot.log").read_text().splitlines()
    assert lines == [f"no metadata service of AWS gives a token at {aws.url}: nothing to watch"]


def test_the_dashboard_listens_on_loopback_only(cluster):
    [start] = [command for command in cluster["head_start_ray_commands"] if "ray start" in command]
    assert re.findall(r"--dashboard-host=(\S+)", start) == ["127.0.0.1"]


def test_the_head_can_start_workers(cluster):
    [start] = [command for command in cluster["head_start_ray_commands"] if "ray start" in command]
    assert "--autoscaling-config=~/ray_bootstrap_config.yaml" in start
    assert any("boto3" in command for command in cluster["head_setup_commands"])


@pytest.mark.parametrize("commands", ["head_setup_commands", "worker_setup_commands"])
def test_every_node_installs_the_project_under_constraints(cluster, commands):
    assert any("pip install" in command and "-c constraints.txt -e ." in command for command in cluster[commands])


def test_the_cluster_gets_every_file_that_its_installation_needs(cluster):
    local = {path for path in cluster["file_mounts"].values() if not path.startswith("~")}
    assert {"pyproject.toml", "constraints.txt", "README.md", "LICENSE", *PACKAGES} <= local
    assert [path for path in sorted(local) if not (ROOT / path).exists()] == []


def dry_run(*words: str) -> str:
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    env = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    done = subprocess.run(["make", "--dry-run", *words], cwd=ROOT, env=env, capture_output=True, text=True, check=True)
    return done.stdout


@pytest.mark.parametrize(
    ("target", "command"),
    [
        ("quickstart", "-m jobs.pipeline --recipe quickstart --no-show --epochs 1"),
        ("test", "-m pytest -n 3 --dist worksteal --epochs 1"),
        ("test-slow", "-m pytest -n 2 --dist worksteal -m slow --epochs 1"),
        ("lint", "-m mypy"),
        ("docs", "-m mkdocs build --strict --epochs 1"),
        ("constraints", "pip freeze"),
    ],
)
def test_a_make_target_sets_up_a_fresh_machine_first(target, command, tmp_path):
    printed = dry_run(target, f"VENV={tmp_path}/venv", "ARGS=--epochs 1")
    steps = [f"-m venv {tmp_path}/venv", "-m pip install --quiet -c constraints.txt -e '.[dev]'", command]
    places = [printed.find(step) for step in steps]
    assert -1 not in places, printed
    assert places == sorted(places)


def test_a_make_target_sets_up_nothing_twice(tmp_path):
    (tmp_path / "venv").mkdir()
    (tmp_path / "venv" / ".installed").touch()
    assert "pip install" not in dry_run("test", f"VENV={tmp_path}/venv")


def test_make_alone_prints_every_target():
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    printed = subprocess.run(["make", "-s"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    [phony] = re.findall(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert [line.split()[1] for line in printed.splitlines() if line.startswith("make ")] == phony.split()


def test_lint_checks_style_format_and_types(tmp_path):
    printed = dry_run("lint", f"VENV={tmp_path}/venv")
    commands = [line.partition(" -m ")[2] for line in printed.splitlines() if " -m " in line][2:]
    assert commands == ["ruff check", "ruff format --check", "mypy"]


def test_continuous_integration_runs_the_checks_the_documentation_and_then_the_tests():
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    targets = re.findall(r"^(?:exec )?make (\S+)", script.read_text(), re.MULTILINE)
    assert targets == ["lint", "docs", "test"]


def test_the_workflow_calls_the_script_of_continuous_integration_with_a_python_that_is_supported():
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
    [job] = workflow["jobs"].values()
    assert job["steps"][-1] == {"run": ".ci/run"}
    [python] = [step["with"]["python-version"] for step in job["steps"] if "setup-python" in step.get("uses", "")]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert SpecifierSet(project["requires-python"]).contains(f"{python}.99")


def test_hooks_before_a_commit_are_the_checks_of_lint_and_fetch_nothing():
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    [repository] = config["repos"]
    assert repository["repo"] == "local"
    assert {hook["language"] for hook in repository["hooks"]} == {"system"}
    programs = [hook["entry"].split()[2] for hook in repository["hooks"]]
    assert programs == ["ruff", "ruff", "mypy"]


DEPLOY = ROOT / "deploy"


def commands_of(text: str) -> list[list[str]]:
    """The commands of ours in a text, without what a shell would fill in."""
    joined = re.sub(r"\\\n", " ", text)
    found = re.findall(r"(?:^|\s)(volo (?:train|doctor|runs) [^\n#&]+)", joined)
    return [shlex.split(re.sub(r'"?\$\w+(?::\$\w+)?"?', "x", line))[1:] for line in found]


@pytest.fixture(scope="module")
def job() -> dict:
    return yaml.safe_load((DEPLOY / "kuberay-rayjob.yaml").read_text())["spec"]


def groups_of(job: dict) -> list[dict]:
    return [job["rayClusterSpec"]["headGroupSpec"], *job["rayClusterSpec"]["workerGroupSpecs"]]


def test_the_rayjob_has_the_ray_that_is_pinned_the_image_of_this_version_and_a_token(job):
    assert job["rayClusterSpec"]["rayVersion"] == pinned("ray")
    assert job["rayClusterSpec"]["authOptions"] == {"mode": "token"}
    images = {group["template"]["spec"]["containers"][0]["image"] for group in groups_of(job)}
    assert {image.rpartition(":")[2] for image in images} == {volo.__version__}


def test_the_rayjob_keeps_its_cache_where_the_image_looks_for_it_and_leaves_time_to_save(job):
    for group in groups_of(job):
        pod = group["template"]["spec"]
        mounts = {mount["mountPath"]: mount["name"] for mount in pod["containers"][0]["volumeMounts"]}
        assert {environment()["VOLO_CACHE_DIR"], "/dev/shm"} == {*mounts}
        assert {*mounts.values()} == {volume["name"] for volume in pod["volumes"]}
        assert pod["terminationGracePeriodSeconds"] >= 120


def test_the_rayjob_asks_for_no_more_workers_than_its_cluster_may_have(job):
    settings = settings_in(shlex.split(job["entrypoint"])[2:])
    [workers] = job["rayClusterSpec"]["workerGroupSpecs"]
    assert settings.run.max_workers == workers["maxReplicas"] and settings.run.device == "cuda"
    assert settings.is_in_bucket and settings.data.data_dir.startswith("s3://")
    assert workers["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"


def settings_in(flags: list[str]):
    return parse_settings(flags, prog="volo train", description="")


@pytest.mark.parametrize("name", ["slurm.sbatch", "on-premises.md", "kuberay-rayjob.yaml"])
def test_every_command_of_ours_in_a_file_for_deployment_is_accepted(name):
    commands = commands_of((DEPLOY / name).read_text())
    assert commands
    for command, *flags in commands:
        if command == "runs":
            assert flags[0] == "--fetch" and flags[1].startswith("s3://")
        else:
            assert settings_in(flags) is not None


def test_the_slurm_script_is_a_script_and_starts_one_ray_per_node_with_a_token():
    script = DEPLOY / "slurm.sbatch"
    assert subprocess.run(["bash", "-n", str(script)], check=False).returncode == 0
    text = script.read_text()
    assert text.index("export RAY_AUTH_MODE=token RAY_AUTH_TOKEN") < text.index("ray symmetric-run")
    assert re.findall(r"#SBATCH --ntasks-per-node=(\d+)", text) == ["1"]


@pytest.mark.parametrize("name", ["slurm.sbatch", "kuberay-rayjob.yaml"])
def test_a_file_for_deployment_marks_what_to_change(name):
    text = (DEPLOY / name).read_text()
    assert text.count("CHANGE") >= 4
    assert "ray stop" not in text
