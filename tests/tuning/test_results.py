"""What a sweep leaves: the table, the best settings, the weights of the best few."""

import csv

import pytest
import yaml

from jobs.cli import parse_settings
from tests.tuning.sweeps import SPACE, base, opened, play
from volo.config import build_settings, differences
from volo.recipes import recipe_settings
from volo.tuning.counts import counts
from volo.tuning.results import BEST_CONFIG, TABLE, best_trial, effective, ranked, write_report, write_results
from volo.tuning.study import DRAWN


def table_of(study) -> list[dict]:
    with open(study.sweep_dir / TABLE, newline="") as file:
        return list(csv.DictReader(file))


def test_the_table_is_ranked_and_says_why_a_trial_failed(tmp_path):
    study = play(opened(tmp_path, num_samples=5, sampler="random"))
    study = opened(tmp_path, num_samples=6, sampler="random")
    study.fail(study.next_work().number, 'no memory, "none"\nat all')
    write_results(study)
    rows = table_of(study)
    assert [row["rank"] for row in rows] == ["1", "2", "3", "4", "5", "6"]
    order = ["complete", "pruned", "running", "fail"]
    assert [row["state"] for row in rows] == sorted((row["state"] for row in rows), key=order.index)
    complete = [float(row["val/acc1"]) for row in rows if row["state"] == "complete"]
    assert complete == sorted(complete, reverse=True)
    assert rows[-1]["reason"] == 'no memory, "none"\nat all'
    assert {"mixing", "mixup_alpha", "label_smoothing", "epochs", "seconds"} <= rows[0].keys()


def test_the_best_settings_are_a_file_that_trains_the_same(tmp_path):
    study = play(opened(tmp_path, settings=base(run={"seed": 3}), num_samples=4, pruner="none"))
    write_results(study)
    best = best_trial(study)
    assert best.value == max(trial.value for trial in study.trials)
    settings = parse_settings(["--config", str(tmp_path / BEST_CONFIG)], prog="train", description="")
    wanted = study.settings_of(best.number, best.user_attrs[DRAWN])
    changed = {name for name in differences(settings, wanted) if not name.startswith("run.")}
    assert (changed, settings.run.seed) == (set(), 3)


@pytest.mark.parametrize(
    "drawn",
    [
        {"model": {"pooling": "cli"}},
        {"model": {"form": "pyramid", "downsample_kind": "token"}},
        {"augment": {"mixup_alpha": 0.0, "cutmix_alpha": 0.0, "mix_prob": None}},
        {"optim": {"batch_size": 256, "use_amp": False}},
    ],
)
def test_only_settings_that_take_effect_are_written(drawn):
    for recipe in ("nano", "tiny", "quickstart"):
        settings = build_settings(recipe_settings(recipe), drawn)
        values = effective(settings)
        assert build_settings(yaml.safe_load(yaml.safe_dump(values))).resolved().model == settings.resolved().model
        assert {name for name in differences(build_settings(values), settings) if not name.startswith("run.")} <= {
            "recipe"
        }
        assert "mix_prob" not in values.get("augment", {})
        assert "class_depth" not in values["model"]
        assert "run" not in values


def test_weights_are_kept_of_the_best_and_the_running_alone_and_metrics_of_all(tmp_path):
    study = play(opened(tmp_path, num_samples=5, pruner="none", keep_checkpoints=2))
    again = play(opened(tmp_path, num_samples=6, pruner="none", keep_checkpoints=2), most=1)
    write_results(again)
    kept = {number for number in range(6) if (study.run_dir(number) / "checkpoints").exists()}
    assert kept == {trial.number for trial in ranked(study)[:2]} | {5}
    assert all((study.run_dir(number) / "metrics.jsonl").exists() for number in range(6))
    assert not any((study.run_dir(number) / "last").exists() for number in {*range(6)} - kept)


def test_without_a_trial_that_was_trained_to_the_end_there_is_no_best_config(tmp_path):
    study = play(opened(tmp_path, num_samples=1), most=1)
    write_results(study)
    assert best_trial(study) is None
    assert not (tmp_path / BEST_CONFIG).exists()
    assert table_of(study)[0]["state"] == "running"


def test_several_objectives_rank_the_front_first(tmp_path):
    study = opened(tmp_path, objectives=("val/acc1:max", "params:min"), num_samples=6, space=SPACE)
    study.counts = lambda settings: {"params": settings.optim.batch_size}
    play(study)
    front = {trial.number for trial in study.study.best_trials}
    assert {trial.number for trial in ranked(study)[: len(front)]} == front


def test_parameters_and_operations_of_a_model_are_counted():
    small, wide = (
        counts(build_settings({"model": {"variant": "quickstart", "embed_dim": width}}), num_classes=10)
        for width in (32, 64)
    )
    assert 0 < small["params"] < wide["params"]
    assert 0 < small["flops"] < wide["flops"]
    pyramid = build_settings({"model": {"variant": "nano", "form": "pyramid"}})
    assert counts(pyramid, num_classes=10)["flops"] > 0
    cli = build_settings({"model": {"variant": "nano", "pooling": "cli"}})
    assert counts(cli, num_classes=10)["params"] > counts(build_settings(), num_classes=10)["params"]


def test_a_report_that_cannot_be_drawn_is_told_of_and_costs_nothing_else(tmp_path, capsys, caplog):
    study = play(opened(tmp_path, num_samples=2, pruner="none"))
    write_results(study)
    (tmp_path / "figures").write_text("in the way of the pictures")
    write_report(study)
    assert "the report could not be drawn" in caplog.text
    assert "FileExistsError" in caplog.text
    assert "report:" not in capsys.readouterr().out
    (tmp_path / "figures").unlink()
    write_report(study)
    assert capsys.readouterr().out == f"report: {tmp_path / 'sweep_report.html'}\n"
    assert len(table_of(study)) == 2
