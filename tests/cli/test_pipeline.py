"""The command line of a pipeline with a sweep in it: what it takes, and refuses before torch or Ray is loaded."""

import json

import pytest

from tests.conftest import draw_folder
from tests.test_imports import run_module
from tests.training.runs import small_run, train
from volo.cli import analyze, pipeline
from volo.cli.outcome import exit_code
from volo.errors import InputError
from volo.settings.config import build_settings


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--space mix --num-workers 0", "volo pipeline runs on Ray, got --num-workers 0"),
        ("--space mix --seeds 0 1", "a sweep has no --seeds; use --seed"),
        ("--space mix --run-name x", "a sweep has no --run-name; use --sweep-name"),
        ("--space mix --max-steps 9", "a sweep has no --max-steps; use --epochs"),
        ("--space mix --num-samples 0", "--num-samples must be at least 1, got 0"),
        ("--space mix --winner-epochs 0", "--winner-epochs 0: optim.epochs must be greater than or equal to 1"),
        ("--space mix --warmup-epochs 4 --winner-epochs 3", "--winner-epochs 3: warmup_epochs must be less"),
        ("--space mix --num-workers 99", "batch_size must give each worker a sample"),
        ("--space pools", "--space must be one of architecture, downsampling, hierarchy, mix, optimizer, pooling"),
    ],
)
def test_what_cannot_be_searched_or_trained_is_refused_before_torch_or_ray_is_loaded(tmp_path, flags, message):
    code, heavy, errors = run_module(
        "jobs.pipeline", tmp_path / "loaded.json", *flags.split(), "--dataset", "shapes", "--output-dir", str(tmp_path)
    )
    assert (code, heavy) == (2, set()), errors
    assert message in errors
    assert "Traceback" not in errors


def test_what_will_be_analyzed_is_known_before_anything_is_trained(tmp_path):
    folder, counts = tmp_path / "images", {"cat": 10, "dog": 10}

    def split(**data) -> str:
        data = dict(dataset="imagefolder", data_dir=str(folder), **data)
        return pipeline._split_to_analyze(build_settings({"data": data}))

    draw_folder(folder, {"train": counts, "valid": counts})
    assert split() == "val"
    with pytest.raises(InputError, match=r"got no test split in .*images and --val-fraction 0; add test/<class>/"):
        split(val_fraction=0)
    draw_folder(folder, {"test": counts})
    assert split(val_fraction=0) == split() == "test"


def test_flags_of_a_sweep_need_a_space(capsys):
    with pytest.raises(SystemExit, match="2"):
        pipeline.main(["--recipe", "nano", "--num-samples", "4"])
    assert "--num-samples" in capsys.readouterr().err


def test_help_lists_the_flags_of_search_and_winner_where_a_space_is_named(capsys):
    with pytest.raises(SystemExit, match="0"):
        pipeline.main(["--space", "mix", "--help-all"])
    printed = capsys.readouterr().out
    for flag in ("--num-samples", "--winner-epochs", "--num-workers", "--max-failures", "--no-show"):
        assert flag in printed
    assert "--run-name" not in printed


def test_a_sweep_with_a_winner_is_refused_under_torchrun(monkeypatch, capsys):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    assert exit_code(pipeline.main, ["--space", "mix", "--dataset", "shapes"]) == 2
    assert "volo pipeline starts its own workers, got torchrun around it" in capsys.readouterr().err


def test_a_finished_pipeline_says_so_and_leaves_its_report_as_it_is(tmp_path, folder, capsys):
    """Neither stage has anything to compute, so that no cluster is started."""
    settings = small_run(tmp_path, folder, optim=dict(epochs=1))
    run_dir = train(settings)
    flags = ["--checkpoint", str(run_dir), "--output-dir", str(run_dir / "analysis"), "--num-workers", "0"]
    assert exit_code(analyze.main, [*flags, "--no-show"]) == 0
    (run_dir / "analysis" / "notes.txt").write_text("mine")
    before = {path.name: (path.read_bytes(), path.stat().st_ino) for path in (run_dir / "analysis").iterdir()}
    values = settings.to_dict()
    values["run"]["num_workers"] = 1
    (tmp_path / "config.json").write_text(json.dumps(values))  # JSON is YAML
    capsys.readouterr()
    assert exit_code(pipeline.main, ["--config", str(tmp_path / "config.json"), "--no-show"]) == 0
    printed = capsys.readouterr().out
    assert "this run is finished" in printed and "this analysis is finished" in printed
    assert printed.splitlines()[-1] == f"report: {run_dir / 'analysis' / 'report.html'}"
    after = {path.name: (path.read_bytes(), path.stat().st_ino) for path in (run_dir / "analysis").iterdir()}
    assert after == before
