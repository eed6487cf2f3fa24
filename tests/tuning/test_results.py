"""What a sweep leaves: the table, the best settings, the weights of the best few."""

import csv
import dataclasses
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.analysis.test_report import Page
from tests.faults.tools.kills import files_limited_to
from tests.tuning.sweeps import SPACE, base, opened, play, play_epoch, states
from volo.cli.parse import parse_settings
from volo.errors import TrainingError
from volo.runs.listing import find_runs, read_run
from volo.settings.config import build_settings
from volo.settings.differences import differences
from volo.settings.recipes import recipe_settings
from volo.tables import read_table
from volo.tuning.counts import counts
from volo.tuning.report import SweepFacts, page, write_sweep_report
from volo.tuning.results import (
    BEST_CONFIG,
    TABLE,
    against_base,
    best_trial,
    effective,
    ranked,
    train_command,
    write_report,
    write_results,
)
from volo.tuning.search.spaces import Space
from volo.tuning.study import BASE, DRAWN, REASON
from volo.tuning.sweep import say_result


def table_of(study) -> list[dict]:
    return list(read_table(study.sweep_dir / TABLE))


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


def draw_formulas(trial) -> dict:
    smoothing = {"=1+1": 0.1, "-2": 0.2, "@SUM(A1)": 0.3}[
        trial.suggest_categorical("=name", ["=1+1", "-2", "@SUM(A1)"])
    ]
    return {"augment": {"label_smoothing": smoothing}}


def test_no_cell_of_the_table_is_a_formula_and_each_is_read_back(tmp_path):
    space = Space("formulas", None, "val/acc1", "max", ({"=name": "@SUM(A1)"},), draw_formulas, "source")
    study = play(opened(tmp_path, space=space, num_samples=2))
    study = opened(tmp_path, space=space, num_samples=3)
    study.fail(study.next_work().number, "=cmd\x1b[31m\nred")
    write_results(study)
    rows = table_of(study)
    assert rows[-1]["reason"] == "=cmd\x1b[31m\nred"
    assert {row["=name"] for row in rows} <= {"", "=1+1", "-2", "@SUM(A1)"}
    assert "@SUM(A1)" in {row["=name"] for row in rows}
    with open(study.sweep_dir / TABLE, newline="") as file:
        cells = [cell for row in csv.reader(file) for cell in row]
    assert not [cell for cell in cells if cell.startswith(("=", "+", "@")) or not cell.isprintable()]


def test_the_best_settings_are_written_to_a_file_that_trains_the_same(tmp_path):
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


def test_a_report_that_cannot_be_drawn_is_logged_and_does_no_other_harm(tmp_path, capsys, caplog, monkeypatch):
    study = play(opened(tmp_path, num_samples=2, pruner="none"))
    write_results(study)
    with monkeypatch.context() as patched:
        (tmp_path / "broken.html.j2").write_text("{{ 1 / 0 }}")
        patched.setattr(page, "TEMPLATE", tmp_path / "broken.html.j2")
        write_report(study)
    assert "the report could not be drawn" in caplog.text
    assert "ZeroDivisionError" in caplog.text
    assert "report:" not in capsys.readouterr().out
    write_report(study)
    assert capsys.readouterr().out == f"report: {tmp_path / 'sweep_report.html'}\n"
    assert len(table_of(study)) == 2


def of_all_files(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("limit", [100, 100_000])
def test_a_full_disk_ends_a_sweep_with_code_3_and_leaves_its_earlier_report_and_figures(tmp_path, limit, caplog):
    """The limit is that of the first figure, and of the page."""
    study = play(opened(tmp_path, num_samples=4, pruner="none"), most=8)
    write_results(study)
    write_report(study)
    play(study)
    before = of_all_files(tmp_path)
    with files_limited_to(limit), pytest.raises(TrainingError, match=r"of the sweep could not be written: .*too large"):
        write_report(study)
    assert of_all_files(tmp_path) == before and not caplog.text
    write_report(study)
    assert of_all_files(tmp_path).keys() == before.keys() and of_all_files(tmp_path) != before


def test_a_full_disk_leaves_the_earlier_table_and_settings_of_a_sweep(tmp_path):
    study = play(opened(tmp_path, num_samples=4, pruner="none"), most=8)
    write_results(study)
    play(study)
    before = of_all_files(tmp_path)
    with files_limited_to(100), pytest.raises(TrainingError, match=r"results of the sweep could not be written: .*csv"):
        write_results(study)
    assert of_all_files(tmp_path) == before


def bad_base() -> dict:
    """The worst of all by far, and other trials at once that are better."""
    return dict(settings=base(epochs=8, augment={"label_smoothing": 0.9}), sampler="random", num_samples=12)


@pytest.mark.parametrize("pruner", ["asha", "hyperband", "median"])
def test_a_bad_base_is_trained_to_the_end_so_that_the_last_line_compares_like_with_like(tmp_path, pruner, capsys):
    study = opened(tmp_path, pruner=pruner, **bad_base())
    works = [study.next_work() for _ in range(6)]  # training at the same time
    for _ in range(8):
        for work in works:
            if not study.has_ended(work.number):
                study.report(work.number, play_epoch(study, work))
    play(study)
    assert states(study)[BASE] == "COMPLETE"
    assert "PRUNED" in states(study)
    write_results(study)
    say_result(study, [])
    best, base_ = best_trial(study), study.frozen(BASE)
    said = capsys.readouterr().out.splitlines()[0]
    assert said == (
        f"best: trial {best.number}, val/acc1 {best.value:.2%}; the base, trial 0: val/acc1 {base_.value:.2%}"
    )


def test_a_base_that_an_older_sweep_stopped_early_is_compared_after_equal_epochs(tmp_path):
    study = opened(tmp_path, pruner="none", num_samples=3)
    work = study.next_work()
    study.report(work.number, play_epoch(study, work))
    study.study.tell(BASE, state=type(study.frozen(BASE).state).PRUNED)
    best = best_trial(play(study))
    first = {number: study.frozen(number).intermediate_values[1] for number in (BASE, best.number)}
    assert against_base(study, best) == (
        f"the base, trial 0, was stopped early: after 1 epoch it had {first[BASE]:.2%}, "
        f"trial {best.number} {first[best.number]:.2%}"
    )


def test_a_base_that_failed_or_has_not_ended_is_not_compared(tmp_path):
    study = opened(tmp_path, pruner="none", num_samples=3)
    study.next_work()
    other = study.next_work()
    while not study.report(other.number, play_epoch(study, other)):
        pass
    assert against_base(study, best_trial(study)) == "the base, trial 0, has not ended yet"
    study.fail(BASE, "no memory")
    assert against_base(study, best_trial(study)) == "the base, trial 0, failed"


def test_an_unbeaten_base_is_called_the_best(tmp_path):
    study = play(opened(tmp_path, settings=base(augment={"label_smoothing": 0.2}), num_samples=3, pruner="none"))
    assert against_base(study, best_trial(study)).startswith("this is the base itself, which no other trial")


def failing(study, numbers) -> None:
    while work := study.next_work():
        if work.number in numbers:
            study.fail(work.number, f"reason {work.number}")
        else:
            while not study.report(work.number, play_epoch(study, work)):
                pass


@pytest.mark.parametrize(
    ("failed", "message"),
    [
        ({0, 1, 2}, "every trial of the sweep failed, the first one, trial 0: reason 0"),
        ({1, 2}, "every trial that the space drew failed, the first one, trial 1: reason 1"),
        ({1}, None),
        ({0}, None),
    ],
)
def test_a_sweep_whose_drawn_trials_all_failed_fails_after_printing_its_results(tmp_path, capsys, failed, message):
    study = opened(tmp_path, pruner="none", num_samples=3)
    failing(study, failed)
    write_results(study)
    if message is None:
        say_result(study, [])
    else:
        with pytest.raises(TrainingError, match=message):
            say_result(study, [])
    assert capsys.readouterr().out.splitlines()[-1] == f"sweep folder: {tmp_path}"


def test_a_sweep_of_the_base_alone_has_not_failed(tmp_path):
    study = play(opened(tmp_path, num_samples=1))
    write_results(study)
    say_result(study, [])


def test_an_exhausted_space_is_reported_last(tmp_path, capsys):
    def draw(trial) -> dict:
        return {"augment": {"label_smoothing": trial.suggest_categorical("label_smoothing", [0.2, 0.3])}}

    study = opened(tmp_path, space=dataclasses.replace(SPACE, draw=draw, first_points=()), num_samples=20)
    said = "the space played has 2 points plus the base: the sweep ends after 3 trials, not 20"
    assert study.shortage == said
    write_results(play(study))
    say_result(study, [])
    assert said in capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("name", ["plain", "my sweeps", "a #1", "it's $HOME", "--config"])
def test_the_command_to_train_the_best_works_in_a_shell_unchanged(tmp_path, name):
    study = play(opened(tmp_path / name / "first", num_samples=2, pruner="none"))
    write_results(study)
    command = train_command(study)
    in_a_shell = command.replace("volo", f"{shlex.quote(sys.executable)} -c 'import sys; print(sys.argv)'", 1)
    shown = subprocess.run(["sh", "-c", in_a_shell], capture_output=True, text=True, check=True).stdout
    config = str(tmp_path / name / "first" / BEST_CONFIG)
    assert shown.strip() == str(["-c", "train", "--config", config, "--run-name", "NAME"])
    parse_settings(shlex.split(command)[2:], prog="train", description="")
    page = write_sweep_report(
        study.study, study.sweep_dir, SweepFacts("s", "s", "s", ["val/acc1"], study.num_epochs, study.run_dir)
    )
    assert f"--config {shlex.quote(config)}" in Page(page).text


def test_runs_of_trials_are_listed_as_the_sweep_left_them(tmp_path):
    """Whatever has become of their weights."""
    study = play(opened(tmp_path, settings=base(epochs=8), sampler="random", num_samples=8, keep_checkpoints=1))
    more = opened(tmp_path, settings=base(epochs=8), sampler="random", num_samples=10, keep_checkpoints=1)
    failed, begun = more.next_work(), more.next_work()
    for work in (failed, begun):
        more.report(work.number, play_epoch(more, work))
    more.fail(failed.number, "its process was lost")
    write_results(more)
    for number in range(10):
        for name in ("config.yaml", "environment.json"):
            (study.run_dir(number) / name).write_text("{}")
    words = {"COMPLETE": "finished", "PRUNED": "stopped early", "FAIL": "failed", "RUNNING": "interrupted"}
    found = [read_run(folder).state for folder in find_runs(tmp_path)]
    assert found == [words[state] for state in states(more)]
    assert {*found} == {*words.values()}
    (tmp_path / TABLE).write_bytes(b"\xff")
    assert {read_run(folder).state for folder in find_runs(tmp_path)} <= {"finished", "interrupted", "never saved"}
    assert REASON in more.frozen(failed.number).user_attrs
