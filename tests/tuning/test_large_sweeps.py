"""However many trials a journal holds: what the driver does for one more does not grow, and nothing else changes by it.

What is counted, not timed, is what it reads, compares and writes. `python -m benchmarks.large_sweep` measures times.
"""

import dataclasses
import shutil
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import optuna
import pytest
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.trial import TrialState, create_trial

from tests.tuning.sweeps import SPACE, accuracy, base, drawn, opened, play_epoch
from tests.tuning.test_study import DISCRETE
from volo.runs.places import TABLE
from volo.tuning import standings, table
from volo.tuning.board import Board
from volo.tuning.report import SweepFacts, coordinates, pictures
from volo.tuning.report.coordinates import save_parallel, save_slices
from volo.tuning.report.importance import importances
from volo.tuning.report.pictures import save_curves, save_history
from volo.tuning.report.trials import Sweep
from volo.tuning.results import BEST_CONFIG, SweepResults, write_results
from volo.tuning.search.drawing import Drawing
from volo.tuning.search.sampling import MAKERS, NumberedSampler, tpe
from volo.tuning.study import DRAWN, METRICS, REASON, SweepStudy

EPOCHS = 4
FILES = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.scandir", "os.listdir"}


def record(study: SweepStudy, num_trials: int) -> None:
    """Adds trials that have ended to the journal: the base, then others drawn at random, all different."""
    random = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=3))
    seen: list[dict] = []
    while (number := len(seen)) < num_trials:
        trial = random.ask()
        settings = study.space.drawn(trial) if number else {}
        if settings in seen:
            continue
        seen.append(settings)
        value = 0.5 + 0.4 * (number * 0.618 % 1)
        has_failed = number % 5 == 4
        study.study.add_trial(
            create_trial(
                state=TrialState.FAIL if has_failed else TrialState.COMPLETE,
                value=None if has_failed else value,
                params=trial.params,
                distributions=trial.distributions,
                user_attrs={DRAWN: settings, **({REASON: "no memory"} if has_failed else {METRICS: {"epoch": EPOCHS}})},
                intermediate_values={} if has_failed else {EPOCHS: value},
            )
        )


def recorded(sweep_dir: Path, num_trials: int, **options) -> SweepStudy:
    """The same sweep, as a new start finds it."""
    options = dict(num_samples=num_trials + 20, pruner="none", sampler="random") | options
    record(opened(sweep_dir, **options), num_trials)
    return opened(sweep_dir, **options)


class Touched:
    """Counts what is done to files, by kind, while it is told to."""

    def __init__(self) -> None:
        self.counts: Counter[str] | None = None
        sys.addaudithook(self.see)

    def see(self, event: str, args: tuple) -> None:
        if self.counts is not None and event in FILES:
            self.counts[event] += 1


@pytest.fixture(scope="module")
def touched() -> Touched:
    return Touched()


@contextmanager
def counting(study: SweepStudy, touched: Touched, monkeypatch) -> Iterator[Counter]:
    counts = touched.counts = Counter()

    def count(holder, name: str) -> None:
        original = getattr(holder, name)

        def called(*args, **kwargs):
            counts[name] += 1
            return original(*args, **kwargs)

        patched.setattr(holder, name, called)

    with monkeypatch.context() as patched:
        count(study.storage, "get_trial")
        count(study.storage, "get_all_trials")
        count(standings, "identity")
        count(table, "row_of")
        yield counts
    touched.counts = None


def ends(study: SweepStudy, touched: Touched, monkeypatch) -> Counter:
    """What the end of a trial reads and writes, of the second: the first one finds out how things stand."""
    results = SweepResults(study)
    with Board(study) as board:
        for _ in range(2):
            work = study.next_work()
            board.start(work)
            metrics = {"epoch": EPOCHS, "step": 40, "val/acc1": 0.1}
            with counting(study, touched, monkeypatch) as counts:
                study.report(work.number, metrics)
                results.write()
                board.end(work.number)
    assert {"get_trial", "identity", "row_of", "open", "os.rename"} <= {*counts} and "get_all_trials" not in counts
    return counts


def test_the_end_of_a_trial_reads_compares_and_writes_as_much_after_ten_trials_as_after_two_hundred(
    tmp_path, touched, monkeypatch
):
    few, many = (ends(recorded(tmp_path / str(number), number), touched, monkeypatch) for number in (10, 200))
    assert few == many


def test_trials_that_end_within_a_second_are_written_together_and_without_waiting_for_another(tmp_path, monkeypatch):
    study = recorded(tmp_path, 10)
    results = SweepResults(study)

    def end() -> None:
        study.report(study.next_work().number, {"epoch": EPOCHS, "step": 40, "val/acc1": 0.1})
        results.is_behind = True

    def num_rows() -> int:
        return len((tmp_path / TABLE).read_text().splitlines()) - 1

    end()
    assert results.catch_up() and num_rows() == 11
    monkeypatch.setattr("volo.tuning.results.AT_MOST_EVERY_S", float("inf"))
    end()
    end()
    assert not results.catch_up() and num_rows() == 11
    monkeypatch.setattr("volo.tuning.results.AT_MOST_EVERY_S", 0.0)
    assert results.catch_up() and num_rows() == 13
    assert not results.catch_up()


def test_a_trial_is_handed_out_without_comparing_the_settings_of_those_before_again(tmp_path, touched, monkeypatch):
    counted = []
    for number in (10, 200):
        study = recorded(tmp_path / str(number), number)
        study.next_work()  # the space's first point
        with counting(study, touched, monkeypatch) as counts:
            study.next_work()
        counted.append(counts)
    assert counted[0]["identity"] == counted[1]["identity"] and counted[0]["get_trial"] == counted[1]["get_trial"]


class Copying(Drawing):
    """Draws in a copy of the whole study, and as if each of its trial's questions were the first."""

    def _drawn(self, trials, study, sampler):
        with_all = optuna.create_study(
            study_name=study.study_name, directions=study.directions, sampler=Forgetful(sampler), pruner=study.pruner
        )
        with_all.add_trials(trials)
        trial = with_all.ask()
        return create_trial(
            state=TrialState.RUNNING, user_attrs={DRAWN: self.drawn_by(trial)}, params=trial.params,
            distributions=trial.distributions,
        )  # fmt: skip


class Forgetful(NumberedSampler):
    def __init__(self, one: NumberedSampler):
        super().__init__(one.make, one.seed, one.plan, one.attempt)

    def sample_relative(self, study, trial, search_space):
        if search_space:
            super().infer_relative_search_space(study, trial)
        return super().sample_relative(study, trial, search_space)


@pytest.mark.parametrize(
    ("space", "sampler"),
    [*((SPACE, name) for name in MAKERS if name != "grid"), *((DISCRETE, name) for name in MAKERS)],
)
@pytest.mark.parametrize("pruner", ["asha", "hyperband"])
def test_what_is_drawn_is_what_a_copy_of_the_whole_study_draws(tmp_path, space, sampler, pruner):
    sweep = dict(space=space, sampler=sampler, pruner=pruner, num_samples=24, settings=base(epochs=3))
    beside, copied = opened(tmp_path / "beside", **sweep), opened(tmp_path / "copied", **sweep)
    copied.drawing = Copying(space, copied.base.to_dict(), copied.options, copied.base.run.seed)
    for study in (beside, copied):
        while work := study.next_work():
            epoch = 1
            while not study.report(work.number, {"epoch": epoch, "val/acc1": accuracy(work.settings, epoch)}):
                epoch += 1
    assert drawn(beside) == drawn(copied)


def draw_bits(trial) -> dict:
    bits = [trial.suggest_categorical(f"bit{place}", [0, 1]) for place in range(8)]
    return {"augment": {"label_smoothing": sum(bit << place for place, bit in enumerate(bits)) / 512}}


@pytest.mark.parametrize(("num_trials", "most"), [(10, 20), (250, 4)])
def test_tpe_reads_fewer_trials_than_it_has_time_for_and_what_is_drawn_is_new_and_the_same_after_a_kill(
    tmp_path, monkeypatch, num_trials, most
):
    """Of 256 points it repeats one or another; the draws after that keep most of what it drew first."""
    made = []
    monkeypatch.setitem(MAKERS, "tpe", lambda seed: made.append(seed) or tpe(seed))
    space = dataclasses.replace(SPACE, draw=draw_bits, first_points=())
    sweep = dict(space=space, sampler="tpe", num_samples=256, pruner="none")
    study = recorded(tmp_path / "whole", num_trials, **sweep)
    shutil.copytree(study.sweep_dir, tmp_path / "killed")
    before = len(study.standings.tried)
    for count in range(1, 4):
        made.clear()
        work = study.next_work()
        assert len(made) <= most and len(study.standings.tried) == before + count
        killed = opened(tmp_path / "killed", **sweep)
        assert [killed.next_work() for _ in range(count)][-1].drawn == work.drawn


@pytest.mark.parametrize("objectives", [(), ("val/acc1:max", "params:min")], ids=["one", "two"])
def test_results_written_after_every_trial_are_those_that_a_new_start_writes(tmp_path, objectives):
    """Two at a time, of which one fails."""
    options = dict(num_samples=12, keep_checkpoints=2, objectives=objectives, pruner="none", sampler="random")
    study = opened(tmp_path, **options)
    study.counts = lambda settings: {"params": settings.optim.batch_size}
    results = SweepResults(study)
    works = [study.next_work(), study.next_work()]
    for turn in range(12):
        work = works.pop(turn % len(works))
        has_ended = False
        while not has_ended:
            has_ended = study.report(work.number, play_epoch(study, work))
            if turn == 5:
                study.fail(work.number, "no memory")
        if (more := study.next_work()) is not None:
            works.append(more)
        results.write()
        files = [(tmp_path / name).read_bytes() for name in (TABLE, BEST_CONFIG)]
        kept = {path.name for path in tmp_path.glob("trials/*") if (path / "checkpoints").exists()}
        write_results(opened(tmp_path, **options))
        assert files == [(tmp_path / name).read_bytes() for name in (TABLE, BEST_CONFIG)]
        assert kept == {path.name for path in tmp_path.glob("trials/*") if (path / "checkpoints").exists()}
        assert len(kept) <= 2
    assert not works


def test_weights_that_a_process_saves_after_its_trials_end_are_removed_at_the_next_end(tmp_path):
    study = recorded(tmp_path, 12, keep_checkpoints=1)
    results = SweepResults(study)
    works = [study.next_work() for _ in range(3)]
    for work in works:
        play_epoch(study, work)
        study.report(work.number, {"epoch": EPOCHS, "step": 10, "val/acc1": 0.1})
        if work is works[1]:
            play_epoch(study, works[0])  # its process has lived on
        results.write()
    assert not (study.run_dir(works[0].number) / "checkpoints").exists()


def reported(num_trials: int) -> optuna.Study:
    """One of three is trained to the end; a form is worth most, a width a third of it, and nothing else counts."""
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=5))
    for number in range(num_trials):
        trial = study.ask()
        value = 0.18 * (trial.suggest_categorical("form", ["flat", "pyramid"]) == "pyramid")
        value += 0.06 * (trial.suggest_categorical("width", [64, 96, 128]) == 128)
        if trial.params["form"] == "pyramid":
            trial.suggest_int("num_stages", 2, 3)
        for name in ("lr", "decay", "smoothing"):
            trial.suggest_float(name, 0.1, 1.0)
        value += 0.1 * (number * 0.618 % 1)
        trial.report(value, 1)
        if number % 3:
            study.tell(trial, state=TrialState.PRUNED)
        else:
            trial.report(value, EPOCHS)
            study.tell(trial, value)
    return study


def sweep_of(study: optuna.Study, folder: Path) -> Sweep:
    facts = SweepFacts("s", "s", "s", ["val/acc1"], EPOCHS, lambda number: folder / f"{number:04d}")
    return Sweep.of(study, facts)


def test_importances_of_many_trials_are_in_the_order_of_what_the_settings_are_worth(tmp_path):
    found = importances(sweep_of(reported(300), tmp_path))
    assert [one.num_trials for one in found] == [300, 100]
    for one in found:
        assert list(one.shares)[:2] == ["form", "width"] and {"form"} <= {*one.beyond_chance} <= {"form", "width"}
    assert found[0].beyond_chance == ["form", "width"]


def test_importances_are_those_that_optuna_computes(tmp_path):
    study = reported(80)
    final = next(one for one in importances(sweep_of(study, tmp_path)) if one.is_final)
    evaluator = PedAnovaImportanceEvaluator(target_quantile=0.25)
    with pytest.warns(UserWarning, match="low `target` values"):
        values = get_param_importances(study, evaluator=evaluator, target=lambda trial: -trial.value)
    assert final.shares == pytest.approx(values)


@pytest.mark.parametrize("draw", [save_slices, save_parallel, save_curves, save_history])
def test_a_picture_of_many_trials_is_made_of_no_more_parts_than_one_of_few(tmp_path, monkeypatch, draw):
    """Each part costs as much memory and time as hundreds of dots in one."""
    num_parts = []
    for module in (coordinates, pictures):
        monkeypatch.setattr(module, "save", lambda figure, path: num_parts.append(len(figure.findobj())) or path)
    for number in (60, 240):
        draw(sweep_of(reported(number), tmp_path), tmp_path / "figure.png")
    few, many = num_parts
    assert many < 1.2 * few
