"""The command line of sweeps: what it takes, and refuses before torch or Ray is loaded."""

import os
from pathlib import Path

import pytest

from tests.test_imports import run_module
from tests.tuning.sweeps import opened, play
from volo.cli import pipeline, tune
from volo.cli.outcome import exit_code

SHAPES = ["--dataset", "shapes", "--epochs", "2"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--space pools", "--space must be one of architecture, downsampling, hierarchy, mix, optimizer, pooling"),
        ("--space none.py", "--space must name an existing file"),
        ("--space mix --num-samples 0", "--num-samples must be at least 1, got 0"),
        ("--space mix --num-workers 2", "a sweep has no --num-workers; use --workers-per-trial"),
        ("--space mix --run-name x", "a sweep has no --run-name; use --sweep-name"),
        ("--space mix --epochs 0", "--epochs must be greater than or equal to 1"),
        ("--space mix --val-fraction 0", "val/acc1 needs validation images, got --val-fraction 0"),
        ("--space mix --objectives val/f1:max", "an objective must be one that a trial reports"),
        (
            "--space mix --objectives val/acc1:max params:min --pruner asha",
            "stopped early only with a single objective",
        ),
        ("--space mix --sampler grid", "a grid needs a discrete space, got mixup_alpha"),
        (
            "--space hierarchy --model volo_d1",
            "the space hierarchy must draw valid settings, got invalid ones: the form must be",
        ),
        ("--space mix --epochs 3 --grace-period 3", "--grace-period must be less than --epochs, or no trial is"),
        ("--space mix --workers-per-trial 99", "--batch-size must give each worker a sample"),
    ],
)
def test_what_cannot_be_searched_is_refused_before_torch_or_ray_is_loaded(tmp_path, flags, message):
    code, heavy, errors = run_module(
        "jobs.tune", tmp_path / "loaded.json", *flags.split(), *SHAPES[:2], "--output-dir", str(tmp_path)
    )
    assert (code, heavy) == (2, set()), errors
    assert message in errors
    assert "Traceback" not in errors


def test_a_sweep_of_another_space_or_other_settings_is_refused_before_torch_or_ray_is_loaded(tmp_path):
    play(opened(tmp_path / "tune-mix", num_samples=1))
    flags = ["--space", "mix", *SHAPES, "--output-dir", str(tmp_path)]
    code, heavy, errors = run_module("jobs.tune", tmp_path / "loaded.json", *flags)
    assert (code, heavy) == (2, set()), errors
    for line in ("space: 'played' before, 'mix' now", "optim.epochs: 4 before, 2 now", "--fresh to rename the sweep"):
        assert line in errors


def test_the_recipe_is_the_spaces_own_unless_another_is_named(tmp_path, capsys):
    assert exit_code(tune.main, ["--space", "mix", "--print-config"]) == 0
    assert "recipe: nano\n" in capsys.readouterr().out
    assert exit_code(tune.main, ["--space=mix", "--recipe", "tiny", "--print-config"]) == 0
    assert "recipe: tiny\n" in capsys.readouterr().out
    Path(tmp_path / "a.yaml").write_text("optim: {lr: 0.5}")
    assert exit_code(tune.main, ["--space", "mix", "--config", str(tmp_path / "a.yaml"), "--print-config"]) == 0
    assert "recipe: null\n" in capsys.readouterr().out


def test_a_sweep_is_refused_under_torchrun(monkeypatch, capsys):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    assert exit_code(tune.main, ["--space", "mix", *SHAPES]) == 2
    assert "volo tune starts its own workers, got torchrun around it" in capsys.readouterr().err


@pytest.mark.parametrize("job", [tune, pipeline])
def test_a_dashboard_for_others_without_a_token_is_refused_before_anything_is_written(
    tmp_path, monkeypatch, capsys, job
):
    for name in [name for name in os.environ if name.startswith("RAY_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    flags = ["--space", "mix", *SHAPES, "--dashboard-host", "0.0.0.0", "--output-dir", str(tmp_path / "outputs")]
    assert exit_code(job.main, flags) == 2
    assert "a dashboard that others can reach must ask for a token" in capsys.readouterr().err
    assert not (tmp_path / "outputs").exists()
