"""A sweep that ends before its last trial, and the display of a sweep."""

import contextlib
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest
from ray.exceptions import RayActorError
from ray.tune.schedulers import TrialScheduler

from tests.runs.test_disk_room import full_disk
from tests.tuning.sweeps import opened, play, play_epoch, states
from volo import console
from volo.cluster.attempt import Attempt
from volo.cluster.start import StopFile
from volo.tuning import ending as module
from volo.tuning.board import Board, in_short
from volo.tuning.ending import Ending, Guarded
from volo.tuning.scheduler import MOST_LOST, StudyScheduler
from volo.tuning.study import REASON
from volo.tuning.trial import DISK


def ending_of(folder: Path, wants_stop=lambda: 0, minutes: float | None = None) -> tuple[Ending, StopFile, list[str]]:
    """With the file that it asks through, and the lines that it says."""
    file, said = StopFile.create(folder), []
    return Ending(file, wants_stop, minutes, said.append, lambda: "free 0 cores of 3 cores"), file, said


def test_a_signal_asks_running_trials_once_and_the_sweep_ends_when_they_have(tmp_path):
    signals = []
    ending, file, said = ending_of(tmp_path, lambda: signals[-1] if signals else 0)
    ending.running = {3, 4}
    assert (ending.stop_all(), file.asked()) == (False, 0)
    signals.append(signal.SIGINT)
    assert (ending.is_asked(), file.asked(), ending.stop_all()) == (True, signal.SIGINT, False)
    ending.running = set()
    assert ending.stop_all()
    assert said == ["asked to stop: saving 2 running trials"]


def test_when_the_time_is_up_trials_are_asked_to_save_too(tmp_path):
    ending, file, said = ending_of(tmp_path, minutes=1e-9)
    ending.running = {0}
    assert ending.is_asked()
    assert file.asked()
    assert said == ["the time is up: saving 1 running trial"]


def test_trials_that_never_see_the_request_do_not_block_a_sweep_forever(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "UNHEARD_S", 0.0)
    ending, _, _ = ending_of(tmp_path, lambda: signal.SIGTERM)
    ending.running = {0}
    assert ending.is_asked()
    assert ending.stop_all()


def test_a_sweep_whose_trials_wait_for_a_busy_cluster_says_so_and_ends_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(console, "PLAIN_INTERVAL_S", 0.0)
    signals = []
    ending, _, said = ending_of(tmp_path, lambda: signals[-1] if signals else 0)
    ending.waiting = {5, 6}
    ending.look()
    signals.append(signal.SIGTERM)
    assert ending.stop_all()
    assert said[0] == "waiting for the cluster to start trial 5, 6: free 0 cores of 3 cores"


def test_a_trial_whose_workers_have_no_room_yet_is_waited_for_though_it_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(console, "PLAIN_INTERVAL_S", 0.0)
    ending, _, said = ending_of(tmp_path)
    attempt = Attempt(tmp_path)
    ending.has_begun = attempt.has_begun_trial
    ending.waiting, ending.running = {6}, {5}
    ending.look()
    attempt.begin_trial(5)
    ending.look()
    assert said == ["waiting for the cluster to start trial 5, 6: free 0 cores of 3 cores"]


def test_a_trial_lost_with_its_node_is_tried_again_three_times_and_one_lost_alone_is_not(tmp_path):
    study, said = opened(tmp_path, num_samples=2, pruner="none"), []
    trial_scheduler = StudyScheduler(study, lambda *_: None, lambda what: contextlib.nullcontext(), said.append)

    def lose(number: int, text: str) -> None:
        error = RayActorError(error_msg=text)
        trial_scheduler.on_trial_error(
            None, SimpleNamespace(config={"number": number}, trial_id=str(number), get_pickled_error=lambda: error)
        )

    first = study.next_work()
    for times in range(1, MOST_LOST + 1):
        lose(first.number, "The actor died because its node has died. Node Id: 4f6a")
        assert said[-1].endswith(f"starting again from its newest checkpoint, {times} of {MOST_LOST} times")
        assert study.next_work() == first
    lose(first.number, "The actor died because its node has died. Node Id: 4f6a")
    lose(study.next_work().number, "Worker exit type: SYSTEM_ERROR")
    reasons = [trial.user_attrs[REASON] for trial in study.trials]
    assert reasons[0].startswith("the trial's process was lost with its node: The actor died because its node")
    assert reasons[1] == "the trial's process was lost, killed or out of memory: Worker exit type: SYSTEM_ERROR"


def test_a_disk_that_fails_ends_the_sweep_and_no_trial(tmp_path):
    """That of the journal, as one trial reports an epoch, or that of another trial's run folder."""
    study = opened(tmp_path, num_samples=3, pruner="none")
    trials = [SimpleNamespace(config={"number": study.next_work().number}) for _ in range(2)]
    for result, limit in (({"epoch": 1, "val/acc1": 0.5}, full_disk()), ({DISK: "run could not be written"}, None)):
        ending, _, said = ending_of(tmp_path)
        guarded = Guarded(study, ending, tmp_path)
        trial_scheduler = StudyScheduler(guarded, lambda *_: None, ending.on_failing_disk, said.append)
        assert not ending.is_asked()
        with limit or contextlib.nullcontext():
            decision = trial_scheduler.on_trial_result(None, trials[DISK in result], result)
        assert decision == (TrialScheduler.STOP if DISK in result else TrialScheduler.CONTINUE)
        assert "could not be written" in str(ending.error)
        assert ending.is_asked() and ending.stop_file.asked() and ending.stop_all()
        assert said == ["a disk failed: saving 0 running trials"]
    assert states(opened(tmp_path, num_samples=3, pruner="none")) == ["RUNNING"] * 2


def test_a_lost_connection_is_no_failing_disk(tmp_path):
    ending, _, _ = ending_of(tmp_path)
    with pytest.raises(ConnectionError), ending.on_failing_disk("a file"):
        raise ConnectionResetError("the cluster is gone")
    assert ending.error is None


def test_without_a_terminal_one_line_gives_the_outcome_of_each_trial(tmp_path, capsys):
    study = opened(tmp_path, num_samples=4, pruner="none")
    with Board(study) as board:
        for outcome in ("complete", "failed", "saved"):
            board.start(work := study.next_work())
            metrics = play_epoch(study, work)
            board.epoch(work.number, metrics)
            if outcome == "complete":
                study.report(work.number, {**metrics, "epoch": 4})
            elif outcome == "failed":
                study.fail(work.number, "no memory")
            board.end(work.number)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "trial 0 starts: unchanged"
    assert lines[1].startswith("trial 0 complete after 4 epochs: val/acc1 40.00%; 1 of 4 trials, about ")
    assert lines[2].startswith("trial 1 starts: label_smoothing=0.1, mixup_alpha=0.5, batch_size=32")
    assert lines[3].startswith("trial 1 failed: no memory; 2 of 4 trials, about ")
    assert lines[3].endswith("best val/acc1 40.00% (trial 0)")
    assert lines[5].startswith("trial 2 saved; it resumes at the next start")


def test_the_table_shows_what_runs_first_then_the_best(tmp_path):
    study = play(opened(tmp_path, num_samples=3, pruner="none"))
    study = opened(tmp_path, num_samples=4, pruner="none")
    board = Board(study)
    board.start(work := study.next_work())
    board.epoch(work.number, play_epoch(study, work))
    rows = list(board._rows())
    number, _, epoch, _, state = rows[0]
    assert (number, epoch, state) == ("3", "1/4", "running")
    assert [row[4] for row in rows[1:]] == ["complete"] * 3
    assert board._render().renderables


def test_settings_have_a_short_form():
    model, augment = {"form": "pyramid", "stage_depths": [1, 2]}, {"mixup_alpha": 0.123456, "mix_prob": None}
    drawn = {"model": model, "augment": augment}
    assert in_short(drawn) == "form=pyramid, stage_depths=1-2, mixup_alpha=0.123"
    assert in_short({}) == "unchanged"
