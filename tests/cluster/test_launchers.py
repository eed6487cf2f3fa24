"""The same run under every launcher: as commands, in processes of their own."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch

from tests.cluster.conftest import ROOT
from tests.cluster.processes import submitted
from tests.conftest import draw_folder
from tests.faults.tools.forked import Command
from tests.ports import free_ports
from tests.training.runs import losses, same, small_run, weights

pytestmark = pytest.mark.ray


def run(command: list[str], env: dict[str, str]) -> subprocess.CompletedProcess:
    return subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, timeout=600)


def train_command(config: Path, *flags: str) -> list[str]:
    return [sys.executable, "-m", "jobs.train", "--config", str(config), *flags]


def torchrun_command(config: Path, *flags: str) -> list[str]:
    elastic = ["-m", "torch.distributed.run", "--nproc_per_node=2", f"--master_port={free_ports(1)[0]}"]
    return [sys.executable, *elastic, "-m", "volo", "train", "--config", str(config), *flags]


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    counts = {"cat": 30, "dog": 31, "owl": 32}
    splits = {"train": counts, "test": dict.fromkeys(counts, 7)}
    return draw_folder(tmp_path_factory.mktemp("data") / "images", splits)


@pytest.fixture(scope="module")
def config(tmp_path_factory, images) -> Path:
    """Fifteen steps of 15 images, which two workers share unevenly; nothing random inside the model."""
    folder = tmp_path_factory.mktemp("launchers")
    settings = small_run(folder, images, optim=dict(batch_size=15, use_amp=False))
    values = settings.to_dict()
    values["run"] |= {"num_workers": None}
    (folder / "config.json").write_text(json.dumps(values))  # JSON is YAML
    return folder / "config.json"


@pytest.fixture(scope="module")
def ran(config, ray_env, request) -> Callable[[str], Path]:
    """The run folder that a launcher, called by its name, made; it is started for the first test that asks."""

    @cache
    def made_by(launcher: str) -> Path:
        flags = ["--run-name", launcher]
        match launcher:
            case "one":
                command = train_command(config, *flags, "--num-workers", "0")
            case "torchrun":
                command = torchrun_command(config, *flags)  # its port is free now, and may not be later
            case "ray":
                address = request.getfixturevalue("head").address
                command = train_command(config, *flags, "--num-workers", "2", "--address", address)
        done = run(command, ray_env)
        assert done.returncode == 0, f"{launcher}: {done.stdout}{done.stderr}"
        return config.parent / "outputs" / launcher

    return made_by


@pytest.mark.slow
def test_torchrun_and_ray_make_equal_losses_and_weights(ran):
    assert len(losses(ran("ray"))) == 15
    assert losses(ran("torchrun")) == losses(ran("ray"))
    assert same(weights(ran("torchrun")), weights(ran("ray")))


@pytest.mark.slow
def test_one_process_makes_the_losses_of_two(ran):
    one, two = losses(ran("one")), losses(ran("torchrun"))
    assert len(two) == 15
    assert all(abs(one[step] - two[step]) < 1e-4 for step in range(1, 11))


@pytest.mark.slow
def test_a_run_of_two_workers_resumes_with_one_and_the_other_way_round(config, head):
    outputs = config.parent / "outputs"
    half = ["--run-name", "changing", "--max-steps", "6"]
    assert run(torchrun_command(config, *half), head.env).returncode == 0
    done = run(train_command(config, "--run-name", "changing", "--num-workers", "0"), head.env)
    assert done.returncode == 0, done.stderr
    assert "resuming at step 6" in done.stdout
    assert list(losses(outputs / "changing")) == list(range(1, 16))


def test_a_finished_run_says_so_without_starting_workers(tmp_path, images, ray_env):
    command = Command.of(small_run(tmp_path, images, optim=dict(batch_size=15, use_amp=False)))
    command.finish()
    done = run(train_command(command.config, "--num-workers", "2", "--address", "127.0.0.1:1"), ray_env)
    assert done.returncode == 0, done.stderr
    assert "this run is finished, at step 15" in done.stdout


@pytest.mark.slow
def test_ray_writes_below_the_run_and_the_driver_shows_what_the_worker_recorded(ran, config, head):
    assert (ran("ray") / ".ray" / "001" / "records.jsonl").exists()
    attempt = run(
        train_command(config, "--run-name", "shown", "--num-workers", "1", "--address", head.address), head.env
    )
    assert attempt.returncode == 0, attempt.stderr
    lines = attempt.stdout.splitlines()
    run_dir = config.parent / "outputs" / "shown"
    assert lines[0] == lines[-1] == f"run folder: {run_dir}"
    assert sum(line.startswith("epoch ") for line in lines) == 3
    assert any("3 classes; 1 worker on cpu" in line for line in lines)


@pytest.mark.slow
def test_the_pipeline_trains_and_prints_its_report_last(config, head):
    command = [sys.executable, "-m", "jobs.pipeline", "--config", str(config), "--run-name", "pipeline"]
    done = run([*command, "--num-workers", "2", "--address", head.address, "--no-show"], head.env)
    assert done.returncode == 0, done.stdout + done.stderr
    report = config.parent / "outputs" / "pipeline" / "analysis" / "report.html"
    assert done.stdout.splitlines()[-1] == f"report: {report}"
    assert report.exists()


def test_num_workers_is_refused_under_torchrun(config, ray_env):
    done = run(torchrun_command(config, "--num-workers", "2"), ray_env)
    assert done.returncode != 0
    assert done.stderr.count("error: --num-workers cannot be given under torchrun") == 1


@pytest.mark.slow
def test_more_workers_than_cores_are_refused_on_a_cluster_of_our_own(config, ray_env):
    too_many = str(1 + os.cpu_count())
    done = run(train_command(config, "--run-name", "many", "--num-workers", too_many, "--batch-size", "75"), ray_env)
    assert done.returncode == 2
    assert f"num_workers must not exceed this machine's cores, got num_workers={too_many}" in done.stderr


@pytest.mark.slow
def test_a_failed_training_ends_with_code_3_and_its_cause(config, head):
    flags = ("--run-name", "failing", "--num-workers", "2", "--address", head.address, "--lr", "1e30")
    done = run(train_command(config, *flags, "--grad-clip", "0", "--warmup-epochs", "0"), head.env)
    assert done.returncode == 3, done.stdout + done.stderr
    assert "training failed: the loss must stay finite" in done.stderr


@pytest.mark.slow
def test_a_submitted_pipeline_trains_analyzes_and_its_log_can_be_read(config, head):
    flags = ("--config", str(config), "--run-name", "submitted", "--num-workers", "1", "--no-show")
    done = run(submitted(head, "-m", "jobs.pipeline", *flags), head.env)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "succeeded" in done.stdout
    assert "best validation top-1" in done.stdout
    run_dir = config.parent / "outputs" / "submitted"
    report = run_dir / "analysis" / "report.html"
    assert [line for line in done.stdout.splitlines() if line.startswith("report: ")] == [f"report: {report}"]
    assert report.exists() and (run_dir / "last").exists()


@pytest.mark.slow
def test_the_analysis_is_the_same_on_ray_and_in_process_also_after_a_move(ran, head, tmp_path):
    moved = ran("ray").rename(tmp_path / "moved")
    results = {}
    for name, flags in {
        "ray": ("--num-workers", "2", "--address", head.address),
        "here": ("--num-workers", "0"),
    }.items():
        command = [sys.executable, "-m", "jobs.analyze", "--checkpoint", str(moved / "best"), "--no-show"]
        done = run([*command, "--output-dir", str(tmp_path / name), *flags], head.env)
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stdout.splitlines()[-1] == f"report: {tmp_path / name / 'report.html'}"
        results[name] = json.loads((tmp_path / name / "eval_metrics.json").read_text())
    assert results["ray"]["num_samples"] == 21
    assert results["ray"]["acc1"] == results["here"]["acc1"]
    assert results["ray"]["loss"] == pytest.approx(results["here"]["loss"], rel=1e-5)
    for file in ("gradcam.pt", "occlusion_heatmap.pt"):
        ours, theirs = (torch.load(tmp_path / name / file, weights_only=True) for name in ("ray", "here"))
        assert torch.equal(ours["indices"], theirs["indices"])
        torch.testing.assert_close(ours["maps"], theirs["maps"], rtol=1e-3, atol=1e-5)
    moved.rename(ran("ray"))
