"""The report of a sweep, from real studies with simulated trials: what it shows, claims and tolerates."""

import json
import math
import shutil
from pathlib import Path

import optuna
import pytest
from optuna.pruners import SuccessiveHalvingPruner
from optuna.trial import TrialState

from tests.analysis.test_report import Page
from tests.tuning.sweeps import opened, play
from volo.errors import InputError
from volo.tuning.journal import open_journal
from volo.tuning.report import SweepFacts, write_sweep_report
from volo.tuning.report.confirmation import read_confirmation, verdicts
from volo.tuning.report.importance import importances
from volo.tuning.report.scales import Scale
from volo.tuning.report.trials import Sweep
from volo.tuning.report.words import findings
from volo.tuning.study import METRICS, REASON

EVIL = "<script>alert(1)</script>"
EPOCHS = 8


@pytest.fixture(autouse=True)
def quiet():
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def facts(folder: Path, **changes) -> SweepFacts:
    values = dict(
        name="first", space="architecture", recipe="nano", metrics=("val/acc1",), num_epochs=EPOCHS,
        run_dir=lambda number: folder / "trials" / f"{number:04d}", confirm_flags="--confirm-top 2",
    )  # fmt: skip
    return SweepFacts(**values | changes)


def ask(study, **fixed) -> optuna.Trial:
    """A trial of a conditional space with these `fixed` values."""
    study.enqueue_trial(fixed)
    trial = study.ask()
    if trial.suggest_categorical("form", ["flat", "pyramid"]) == "flat":
        trial.suggest_categorical("pooling", ["mean", "cls", "cli"])
    else:
        trial.suggest_int("num_stages", 2, 3)
    trial.suggest_float("label_smoothing", 0.0, 0.2, step=0.05)
    trial.suggest_float("lr", 1e-4, 1e-2, log=True)
    return trial


def new_study(pruner=None, storage=None, **kwargs) -> optuna.Study:
    sampler = optuna.samplers.RandomSampler(seed=1)
    kwargs = kwargs or {"direction": "maximize"}
    return optuna.create_study(sampler=sampler, pruner=pruner or optuna.pruners.NopPruner(), storage=storage, **kwargs)


def played(num_trials: int, *, factor: int = 4, storage=None) -> optuna.Study:
    """Pyramids are much better than flat models, and nothing else matters."""
    study = new_study(SuccessiveHalvingPruner(min_resource=1, reduction_factor=factor), storage)
    for number in range(num_trials):
        trial = ask(study, **({"form": "flat"} if number == 0 else {}))
        top = 0.5 + 0.2 * (trial.params["form"] == "pyramid") + 0.01 * math.sin(number)
        for epoch in range(1, EPOCHS + 1):
            trial.report(top * (1 - 0.5 / epoch), epoch)
            if epoch < EPOCHS and trial.should_prune():
                study.tell(trial, state=TrialState.PRUNED)
                break
        else:
            study.tell(trial, top * (1 - 0.5 / EPOCHS))
    return study


def fail(study, reason: str) -> None:
    trial = ask(study)
    trial.set_user_attr(REASON, reason)
    study.tell(trial, state=TrialState.FAIL)


def confirm(folder: Path, **entries) -> None:
    content = {name.replace("_", " "): entry for name, entry in entries.items()}
    (folder / "confirm.json").write_text(json.dumps(content))


def runs(*values, epochs: int = EPOCHS, **more) -> dict:
    return {"epochs": epochs, "seeds": {str(seed): value for seed, value in enumerate(values)}, **more}


def claims(folder: Path, study: optuna.Study) -> str:
    return "\n".join(findings(Sweep.of(study, facts(folder)), read_confirmation(folder), []))


def pictures(folder: Path) -> set[str]:
    return {path.stem for path in (folder / "figures").glob("*")}


@pytest.fixture(scope="module")
def journal(tmp_path_factory) -> Path:
    """A folder with the journal of a sweep of 24 trials, some stopped early, one failed, one running."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    folder = tmp_path_factory.mktemp("sweep")
    study = played(24, storage=open_journal(folder))
    fail(study, f"OutOfMemoryError: {EVIL}")
    ask(study).report(0.3, 1)
    return folder


@pytest.fixture
def sweep_dir(journal, tmp_path) -> Path:
    return Path(shutil.copytree(journal, tmp_path / "sweep"))


def load(folder: Path) -> optuna.Study:
    return optuna.load_study(study_name=None, storage=open_journal(folder))


def test_a_page_from_a_journal_shows_what_was_tried_and_is_self_contained(sweep_dir):
    study = load(sweep_dir)
    page = Page(write_sweep_report(study, sweep_dir, facts(sweep_dir)))
    assert pictures(sweep_dir) == {"history", "curves", "importances", "parallel", "slices"}
    assert len(page.attributes("img")) == 5
    assert all(attrs["src"].startswith("data:image/png;base64,") and attrs["alt"] for attrs in page.attributes("img"))
    assert not page.attributes("script") and not page.attributes("link")
    assert "http://" not in page.source and "https://" not in page.source
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert {attrs["href"][1:] for attrs in page.attributes("a")} <= set(ids) and len(ids) == len(set(ids))
    states = [trial.state for trial in study.trials]
    counts = [f"{states.count(TrialState.COMPLETE)} complete", f"{states.count(TrialState.PRUNED)} stopped early"]
    counts.append(f"of {26 * EPOCHS} without stopping early")
    names = ("first", "architecture", "nano", "best_config.yaml", "trials/", "OutOfMemoryError", "1 running")
    for text in (*names, *counts):
        assert text in page.text, text


def test_epochs_that_were_trained_are_counted_against_all(sweep_dir):
    study = load(sweep_dir)
    trained = [len(trial.intermediate_values) for trial in study.trials]
    assert [trial.num_epochs for trial in Sweep.of(study, facts(sweep_dir)).trials] == trained
    assert 0 < sum(trained) < 26 * EPOCHS / 2


def test_html_in_names_reasons_and_values_is_escaped(tmp_path):
    study = new_study()
    for value in (EVIL, "plain"):
        trial = study.ask()
        trial.suggest_categorical(EVIL, [value, "other"] if value == EVIL else [EVIL, "other"])
        study.tell(trial, 0.5)
    fail(study, EVIL)
    evil = facts(tmp_path, name=EVIL, space=EVIL, recipe=EVIL, metrics=(EVIL,))
    page = Page(write_sweep_report(study, tmp_path, evil))
    assert not page.attributes("script") and page.text.count(EVIL) > 6


@pytest.mark.parametrize("num_trials", [0, 1])
def test_a_sweep_that_has_hardly_begun_has_a_page(tmp_path, num_trials):
    page = Page(write_sweep_report(played(num_trials), tmp_path, facts(tmp_path)))
    assert ("none yet" in page.text) == (num_trials == 0)
    assert "better by" not in page.text
    assert len(page.attributes("img")) == (4 if num_trials else 0)


def test_trials_that_are_all_stopped_or_failed_leave_no_best(tmp_path):
    study = new_study()
    for _ in range(3):
        trial = ask(study)
        trial.report(0.2, 1)
        study.tell(trial, state=TrialState.PRUNED)
    fail(study, "")
    page = Page(write_sweep_report(study, tmp_path, facts(tmp_path)))
    assert "No trial has been trained to the end yet" in page.text and "best_config" not in page.text
    assert pictures(tmp_path) == {"history", "curves", "parallel", "slices"}


def test_values_that_are_not_finite_are_passed_over(tmp_path):
    study = new_study()
    for number in range(4):
        trial = ask(study)
        trial.report([0.1, math.nan, math.inf, -math.inf][number], 1)
        study.tell(trial, [0.4, math.inf, 0.5, None][number], state=None if number < 3 else TrialState.FAIL)
    page = Page(write_sweep_report(study, tmp_path, facts(tmp_path)))
    assert "nan %" not in page.text and "inf %" not in page.text
    assert "Trial 2 is the best: val/acc1 50.00 %" in page.text


def test_long_names_and_many_parameters_are_drawn(tmp_path):
    study = new_study()
    for number in range(6):
        trial = study.ask()
        for index in range(30):
            trial.suggest_categorical(f"a_parameter_with_a_long_name_{index}", ["x" * 60, "y" * 60])
        study.tell(trial, number / 10)
    assert Page(write_sweep_report(study, tmp_path, facts(tmp_path))).attributes("img")


def test_what_an_earlier_report_drew_and_this_one_cannot_is_removed(tmp_path):
    write_sweep_report(played(4), tmp_path, facts(tmp_path))
    assert pictures(tmp_path)
    write_sweep_report(new_study(), tmp_path, facts(tmp_path))
    assert not pictures(tmp_path)


def test_several_objectives_show_their_front_with_curves_from_the_run_folders(tmp_path):
    study = new_study(directions=["maximize", "minimize"])
    for number in range(6):
        trial = ask(study)
        folder = tmp_path / "trials" / f"{number:04d}"
        folder.mkdir(parents=True)
        records = [{"kind": "epoch", "step": e, "epoch": e, "val/acc1": 0.1 * e} for e in (1, 2)]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
        trial.set_user_attr(METRICS, {"epoch": 2})
        study.tell(trial, [0.1 * number, 1e5 * abs(number - 2)])
    shown = facts(tmp_path, metrics=("val/acc1", "params"), num_epochs=2)
    page = Page(write_sweep_report(study, tmp_path, shown))
    assert {"front", "curves", "history"} <= pictures(tmp_path)
    assert "of 6 complete trials" in page.text and "better by" not in page.text
    assert Sweep.of(study, shown).trials[0].curve == {1: 0.1, 2: 0.2}


def test_facts_that_name_other_objectives_than_the_study_has_are_refused(tmp_path):
    with pytest.raises(ValueError, match="metrics must name each objective"):
        write_sweep_report(played(1), tmp_path, facts(tmp_path, metrics=("val/acc1", "params")))


def test_the_studys_own_trials_are_understood(tmp_path):
    """With the settings, metrics and reasons that a sweep leaves; its base has no parameters."""
    study = play(opened(tmp_path, num_samples=8))
    page = Page(write_sweep_report(study.study, tmp_path, facts(tmp_path, num_epochs=4, run_dir=study.run_dir)))
    assert "the unmodified recipe" in page.text and "trials/0000" in page.source


def test_a_lone_best_trial_is_not_called_better_than_the_base(sweep_dir):
    said = claims(sweep_dir, load(sweep_dir))
    assert "not yet shown to be better" in said and "--confirm-top 2" in said and "better by" not in said


@pytest.mark.parametrize(
    ("base", "best", "claim"),
    [
        ((0.50, 0.51, 0.52), (0.53, 0.54, 0.55), "better by 3.00 points"),
        ((0.53, 0.54, 0.55), (0.50, 0.51, 0.52), "worse by 3.00 points"),
        ((0.50, 0.51, 0.54), (0.53, 0.54, 0.55), "overlap, so neither is shown to be better"),
        ((0.50, 0.51), (0.53, 0.54), "with so few seeds neither is shown to be better"),
        ((0.50, 0.51, 0.52, None), (0.53, None, 0.54, 0.55), "2 runs without a value"),
    ],
)
def test_better_is_claimed_only_if_seeds_do_not_overlap_and_are_enough(sweep_dir, base, best, claim):
    confirm(sweep_dir, base=runs(*base, trial=0), best=runs(*best, trial=3))
    said = claims(sweep_dir, load(sweep_dir))
    assert claim in said
    assert ("better by" in said) == (claim.startswith("better") or "runs" in claim)


def test_seeds_are_drawn_and_listed_beside_the_sweeps_own_value(sweep_dir):
    confirm(sweep_dir, base=runs(0.5, 0.51, 0.52, trial=0), best=runs(0.6, 0.61, 0.62, trial=3))
    page = Page(write_sweep_report(load(sweep_dir), sweep_dir, facts(sweep_dir)))
    assert "seeds" in pictures(sweep_dir)
    said = f"Trained again, {EPOCHS} epochs each"
    for text in ("best (trial 3)", said, "60.00 % to 62.00 %", "51.00 % over 3 new seeds"):
        assert text in page.text, text


def test_less_is_better_if_the_objective_is_a_loss(tmp_path):
    confirm(tmp_path, base=runs(2.0, 2.1, 2.2), best=runs(1.0, 1.1, 1.2))
    [verdict] = verdicts(read_confirmation(tmp_path), is_maximized=False)
    assert verdict.holds and verdict.separation == 1 and verdict.gain == pytest.approx(1.0)
    assert verdict.chance == pytest.approx(1 / 20)


def test_runs_of_unequal_length_are_not_compared(sweep_dir):
    confirm(sweep_dir, base=runs(0.5, 0.51, 0.52), trial_7=runs(0.6, 0.61, 0.62, epochs=2 * EPOCHS))
    said = claims(sweep_dir, load(sweep_dir))
    assert "Trial 7 is not compared with the base" in said and "better by" not in said


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"base": {"seeds": {}}}', '{"other": {"epochs": 1, "seeds": {"0": 1}}}']
)
def test_a_confirmation_that_is_none_is_named(tmp_path, content):
    (tmp_path / "confirm.json").write_text(content)
    with pytest.raises(InputError, match=r"confirm\.json must map"):
        read_confirmation(tmp_path)


def test_a_page_is_written_though_the_confirmation_cannot_be_read(tmp_path):
    (tmp_path / "confirm.json").write_text("{")
    assert "confirm.json must map" in Page(write_sweep_report(played(1), tmp_path, facts(tmp_path))).text


def test_what_decides_is_found_beyond_chance_and_what_does_not_is_left_out(tmp_path):
    found = importances(Sweep.of(played(40), facts(tmp_path)))
    assert found[0].num_trials == 40 and not found[0].is_final
    assert next(iter(found[0].shares)) == "form" and "form" in found[0].beyond_chance
    assert {"lr", "label_smoothing"} & {*found[0].beyond_chance} == set()


def test_trials_are_compared_after_equally_many_epochs(tmp_path):
    final, early = Sweep.of(played(24), facts(tmp_path)).scores
    assert final.epoch == EPOCHS and early.epoch == 1
    assert len(early.values) == 24 > len(final.values)


def test_parameters_of_one_condition_stand_together(tmp_path):
    study = new_study()
    for form in ("flat", "pyramid"):
        study.tell(ask(study, form=form), 0.5)
    assert Sweep.of(study, facts(tmp_path)).params == ["form", "num_stages", "pooling", "label_smoothing", "lr"]


def test_values_of_any_kind_have_a_position_on_the_axis():
    mixed = Scale("x", (1, 1.5, True, None, "a"))
    assert [mixed.place(value) for value in (1, 1.5, True, None, "a")] == [0, 0.25, 0.5, 0.75, 1]
    assert Scale("x", (), 1e-4, 1e-2, True).place(1e-3) == pytest.approx(0.5)
    assert Scale("x", (0.2, 0.4, 0.2 * 3)).place(0.6) == 1 and Scale("x", (), 3, 3).place(3) == 0.5
