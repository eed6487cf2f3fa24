"""The watchdog of a rank: what counts as a sign of life, who is accused, and that nothing of it is left."""

import re
import threading
import time
from traceback import extract_tb

import pytest
import torch

from tests.limits import LIMIT_S
from tests.training.runs import small_run, train
from volo.errors import ExitCode, InputError
from volo.frames import own_frame
from volo.settings.durations import parse_duration
from volo.training.guards.hang import RankReport, accuse, describe
from volo.training.guards.watchdog import START_S, TRAINING_FAILED, Watchdog, watched
from volo.training.world import single_process

HOOK = "/home/me/hooks.py:7 in wait"
COLLECTIVE = "/lib/torch/distributed/distributed_c10d.py:9 in all_reduce"
BACKWARD = "/lib/torch/autograd/graph.py:9 in _engine_run_backward"
FORWARD = "/lib/torch/nn/parallel/distributed.py:9 in forward"


def at(rank: int, phase: str, step: int, frame: str = COLLECTIVE) -> RankReport:
    return RankReport(
        rank, f"host{rank}", 100 + rank, step, phase, 5.0, "volo/x.py:1 in f", ["/run.py:1 in main", frame]
    )


@pytest.mark.parametrize(
    ("reports", "accused"),
    [
        ([at(0, "update", 7)], 0),
        ([at(0, "update", 7), at(2, "update", 7)], 1),
        ([at(1, "update", 7)], 0),
        ([at(0, "update", 7), at(1, "data", 7), at(2, "update", 7)], 1),
        ([at(0, "save", 8, HOOK), at(1, "data", 8), at(2, "update", 8)], 0),
        ([at(0, "validate", 8), at(1, "update", 7), at(2, "validate", 8)], 1),
        ([at(0, "start", 0), at(1, "update", 7), at(2, "update", 7)], 0),
        ([at(0, "update", 7, BACKWARD), at(1, "update", 7), at(2, "update", 7, HOOK)], 2),
        ([at(0, "update", 7, FORWARD), at(1, "update", 7, BACKWARD), at(2, "update", 7)], 0),
        ([at(0, "update", 7), at(1, "update", 7), at(2, "update", 7)], None),
        ([at(0, "update", 7, HOOK), at(1, "update", 7, HOOK), at(2, "update", 7)], None),
    ],
    ids=lambda value: "-".join(f"{r.rank}{r.phase}" for r in value) if isinstance(value, list) else str(value),
)
def test_the_accused_is_the_silent_rank_or_the_one_behind_or_the_one_that_waits_for_nobody(reports, accused):
    num_ranks = 1 if len(reports) == 1 and accused == 0 and reports[0].rank == 0 else 3
    found = {report.rank: report for report in reports}
    assert accuse(found, num_ranks) == accused


def test_the_message_names_rank_host_pid_phase_step_and_place(tmp_path):
    ranks = ["host0, pid 100", "host1, pid 101"]
    reports = {0: at(0, "update", 1234), 1: at(1, "data", 1234, HOOK)}
    said = describe(1, reports, ranks, 90.0, tmp_path)
    assert "got rank 1 (host1, pid 101) hanging in phase data after step 1,234, at volo/x.py:1 in f" in said
    assert "hang_timeout=90 s" in said and str(tmp_path) in said and "raise --hang-timeout" in said
    silent = describe(1, {0: reports[0]}, ranks, 90.0, tmp_path)
    assert "got no answer from rank 1 (host1, pid 101), which is frozen or gone; rank 0 waits for it in phase" in silent
    assert "got all 2 ranks in phase update after step 1,234" in describe(None, reports, ranks, 90.0, tmp_path)


def test_the_timeout_counts_from_the_first_step_and_before_it_there_is_more_time(tmp_path):
    watchdog = Watchdog(tmp_path, 0, ["here"], timeout_s=10.0)
    assert watchdog.limit_s == START_S > 10.0
    for phase in ("data", "update"):
        watchdog.beat(phase, 40)  # resumes after step 40
        assert watchdog.limit_s == START_S
    watchdog.beat("data", 41)
    assert watchdog.limit_s == 10.0
    assert Watchdog(tmp_path, 0, ["here"], timeout_s=2 * START_S).limit_s == 2 * START_S


def test_a_rank_that_is_slow_but_goes_on_is_waited_for_and_one_that_stops_is_not(tmp_path, monkeypatch):
    ended = threading.Event()
    monkeypatch.setattr(Watchdog, "_end", lambda *_: ended.set())
    _, slow = both = [Watchdog(tmp_path / "hang", rank, ["here", "there"], timeout_s=0.4) for rank in (0, 1)]
    for watchdog in both:
        for step in (0, 1):
            watchdog.beat("validate", step)
        watchdog.start()
    deadline = time.monotonic() + LIMIT_S
    while not (tmp_path / "hang" / "3").exists() and time.monotonic() < deadline:  # two alarms were false
        slow.beat("validate", 1)
        time.sleep(0.01)
    assert (tmp_path / "hang" / "3").exists() and not ended.is_set()
    assert ended.wait(LIMIT_S)
    for watchdog in both:
        watchdog.close()
    assert {"rank_0.json", "rank_1.json"} == {path.name for path in (tmp_path / "hang" / "1").iterdir()}


def test_the_own_frame_of_an_error_is_the_innermost_outside_of_installed_packages():
    with pytest.raises(ValueError) as raised:
        parse_duration("soon")
    assert re.fullmatch(r"volo/settings/durations\.py:\d+ in parse_duration", own_frame(extract_tb(raised.tb)))
    with pytest.raises(RuntimeError) as raised:
        torch.nn.Linear(1, 1)(torch.ones(2))
    assert own_frame(extract_tb(raised.tb)).startswith(f"{__file__}:")
    assert own_frame([]) == "an unknown place"


def watchdogs() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "watchdog"]


@pytest.mark.parametrize("fails", [False, True])
def test_no_thread_is_left_whether_training_ends_or_fails(tmp_path, folder, fails):
    settings = small_run(tmp_path, folder, run=dict(hang_timeout="60s"))
    if fails:
        with pytest.raises(ZeroDivisionError), watched(settings, single_process()):
            assert len(watchdogs()) == 2
            raise ZeroDivisionError
    else:
        run_dir = train(small_run(tmp_path, folder, optim=dict(max_steps=2)))
        assert not (run_dir / "hang").exists()
    assert watchdogs() == []


def test_a_timeout_of_0_watches_over_nothing(tmp_path, folder):
    with watched(small_run(tmp_path, folder, run=dict(hang_timeout="0")), single_process()) as beat:
        beat("data", 0)
        assert watchdogs() == []


def test_a_hang_ends_with_the_code_of_a_failed_training():
    assert TRAINING_FAILED == ExitCode.WORK_FAILED == 3


@pytest.mark.parametrize(
    ("text", "seconds"), [("600", 600), (600, 600), (1.5, 1.5), ("90s", 90), ("10m", 600), ("1.5h", 5400), ("0", 0)]
)
def test_durations_are_seconds_or_have_a_unit(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "soon", "-5", "10 minutes", "5d", "m", "1e3", "nan"])
def test_other_durations_are_refused(tmp_path, folder, text):
    with pytest.raises(InputError, match=r"hang_timeout: a duration must be seconds, or a number with a unit such as"):
        small_run(tmp_path, folder, run=dict(hang_timeout=text))
