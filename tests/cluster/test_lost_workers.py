"""Which losses of workers are told how, and which of them cost a start, by what Ray says of them."""

import dataclasses
import json
import socket
from pathlib import Path

import pytest
import ray
from ray.exceptions import ActorDiedError, ActorUnavailableError, OutOfMemoryError, RayActorError
from ray.train import ControllerError, WorkerGroupError

from volo.cluster import living, restart, watch
from volo.cluster.attempt import Attempt, Member
from volo.cluster.failures import Failure, first_cause, told_of_loss
from volo.cluster.watch import FailureWatch, TrainingEnded

# What Ray 2.60 writes, the parts in front of it left out.
NODE_DIED = """The actor died unexpectedly before finishing this task.
\tclass_name: RayTrainWorker
\tpid: 24518
\tip: 127.0.0.1
The actor died because its node has died. Node Id: 4f6a41e0a25ff5bd02fd1e1bc5a3a0f2ffa0ef0f4f9d0b5d7b6ed9a3
\tthe actor's node was terminated unexpectedly: health check failed due to missing too many heartbeats"""
NODE_STOPPED = NODE_DIED.rpartition("\t")[0] + "\tthe actor's node was terminated expectedly: received SIGTERM"
PROCESS_DIED = """The actor died unexpectedly before finishing this task.
\tclass_name: RayTrainWorker
The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR Worker exit detail: Worker \
unexpectedly exits with a connection error code 2. End of file. Some common causes include: (1) the process was \
killed by the OOM killer due to high memory usage, (2) ray stop --force was called, or (3) the worker crashed \
unexpectedly due to SIGSEGV or another unexpected error."""
LOW_MEMORY = "Task was killed due to the node running low on memory."
HERE, GONE = "a" * 56, "b" * 56


def died(text: str, preempted: bool = False) -> RayActorError:
    return RayActorError(error_msg=text, preempted=preempted)


def members(*node_ids: str) -> list[Member]:
    """Workers by rank, each on its node."""
    return [
        Member(rank, len(node_ids), f"host{rank}", 1000 + rank, "/tmp/out", 0.0, node_id)
        for rank, node_id in enumerate(node_ids)
    ]


def cause(*node_ids: str, noted: tuple[Failure, ...] = (), **raised: Exception) -> Failure:
    errors = {int(rank.removeprefix("rank")): error for rank, error in raised.items()}
    return first_cause(noted, errors, members(*node_ids), lambda node_id: node_id == GONE)


@pytest.mark.parametrize(
    ("error", "message", "tells_of_memory"),
    [
        (died(NODE_DIED), "its node is gone", False),
        (died(NODE_STOPPED), "its node is gone", False),
        (died(NODE_DIED, preempted=True), "its node was taken away", False),
        (died(PROCESS_DIED), "its process ended without an error: killed, or crashed in native code", True),
        (died(LOW_MEMORY), "Ray ended it because its node ran low on memory", True),
        (OutOfMemoryError(LOW_MEMORY), "Ray ended it because its node ran low on memory", True),
        (ActorUnavailableError("RPC error: Connection refused", b"a" * 16), "it cannot be reached", False),
    ],
)
def test_the_hint_of_memory_comes_with_a_killed_process_alone(error, message, tells_of_memory):
    told = told_of_loss(error)
    assert told.message == message
    assert ("memory runs out" in told.hint) == tells_of_memory


@pytest.mark.parametrize("error", [died(PROCESS_DIED), ActorUnavailableError("Connection refused", b"a" * 16)])
def test_a_process_that_went_with_its_node_is_told_as_a_lost_node(error):
    failure = cause(HERE, GONE, rank0=died(PROCESS_DIED), rank1=error)
    assert (failure.rank, failure.message, failure.is_of_node, failure.log) == (1, "its node is gone", True, "")
    assert "memory" not in failure.hint and "--num-workers MIN:MAX" in failure.hint
    assert cause(HERE, HERE, rank1=error).message != "its node is gone"


def test_a_worker_that_reported_nothing_is_told_as_a_lost_node_only_if_its_node_is_gone():
    echo = Failure(0, 3, "host0", 1000, "DistNetworkError", "Connection reset by peer", 0.0, is_echo=True)
    failure = cause(HERE, HERE, GONE, noted=(echo,), rank0=RuntimeError())
    assert (failure.rank, failure.message) == (2, "its node is gone")
    failure = cause(HERE, HERE, HERE, noted=(echo,), rank0=RuntimeError())
    assert failure.rank == 1 and "found the connection to it closed (or worker 2" in failure.message
    assert "memory runs out" in failure.hint


@pytest.fixture
def attempt(tmp_path, monkeypatch) -> Attempt:
    """Of two workers, the second of them on a node that is gone."""
    monkeypatch.setattr(watch, "is_gone", lambda node_id: node_id == GONE)
    attempt = Attempt.create(tmp_path)
    begin(attempt, start=0)
    return attempt


def begin(attempt: Attempt, start: int) -> None:
    for member in members(HERE, GONE):
        path = attempt.folder / f"worker-{member.rank}.json"
        path.write_text(json.dumps(dataclasses.asdict(member) | {"pid": member.pid + 10 * start}))


def charges(attempt: Attempt, watch: FailureWatch, error: Exception, rank: int, starts: int) -> list[bool]:
    """Of each of several starts that end in the same way, whether it was charged. The last may end the training."""
    found = []
    for start in range(starts):
        begin(attempt, start)
        try:
            watch.after_exception(None, {rank: error})
        finally:
            found.append(not attempt.last_failure().is_free)
    return found


def test_a_killed_worker_is_charged_and_one_too_many_ends_the_training(attempt):
    watch = FailureWatch(attempt, max_failures=2)
    assert charges(attempt, watch, died(PROCESS_DIED), 0, starts=2) == [True, True]
    with pytest.raises(TrainingEnded, match="worker 0 of 2 on host0 was lost: its process ended"):
        charges(attempt, watch, died(PROCESS_DIED), 0, starts=1)
    assert attempt.last_failure().is_last and attempt.last_failure().is_final


def test_a_node_lost_before_training_began_costs_nothing_and_one_lost_after_that_does(attempt):
    watch = FailureWatch(attempt, max_failures=1)
    assert charges(attempt, watch, died(NODE_DIED), 1, starts=5) == [False] * 5
    attempt.show({"kind": "note", "text": "starting"})
    assert charges(attempt, watch, died(NODE_DIED), 1, starts=2) == [True, False]


def test_a_node_lost_before_its_announced_end_costs_nothing(attempt):
    watch = FailureWatch(attempt, max_failures=0)
    attempt.show({"kind": "note", "text": "starting"})
    attempt.announce([GONE])
    assert charges(attempt, watch, died(NODE_DIED), 1, starts=1) == [False]
    attempt.show({"kind": "note", "text": "starting"})
    with pytest.raises(TrainingEnded):
        charges(attempt, watch, died(PROCESS_DIED), 0, starts=1)


def test_what_ray_repeats_while_a_node_is_drained_is_told_once(attempt, monkeypatch):
    watching = FailureWatch(attempt, max_failures=1)
    for _ in range(5):
        watching.after_exception(None, {0: died(PROCESS_DIED)})
    assert len(attempt.failures()) == 1
    monkeypatch.setattr(watch, "REPEATED_S", 0.0)
    for _ in range(5):
        watching.after_exception(None, {1: died(NODE_DIED, preempted=True)})
    assert [failure.is_free for failure in attempt.failures()] == [False, True]


def test_a_failure_before_any_worker_has_begun_is_charged_at_every_start(attempt, monkeypatch):
    """No worker has said who it is, so that all that Ray tells is the rank."""
    monkeypatch.setattr(watch, "REPEATED_S", 0.0)
    watching = FailureWatch(attempt, max_failures=2)
    for _ in range(2):
        watching.after_exception(None, {7: OSError("no such folder")})
    with pytest.raises(TrainingEnded):
        watching.after_exception(None, {7: OSError("no such folder")})


def test_the_failures_of_an_earlier_controller_count(attempt):
    charges(attempt, FailureWatch(attempt, max_failures=1), died(PROCESS_DIED), 0, starts=1)
    with pytest.raises(TrainingEnded):
        charges(attempt, FailureWatch(attempt, max_failures=1), died(PROCESS_DIED), 0, starts=1)


@pytest.mark.parametrize(
    ("error", "lost", "gives_back", "starts"),
    [
        (ControllerError(ActorDiedError()), {"b"}, True, 2),
        (ControllerError(ActorDiedError()), set(), True, 1),
        (ControllerError(ActorDiedError()), {"b"}, False, 1),
        (ControllerError(TrainingEnded("worker 0 raised KeyError")), {"b"}, True, 1),
        (WorkerGroupError("", {0: ActorDiedError()}), {"b"}, True, 1),
    ],
)
def test_only_where_ray_gives_up_for_a_lost_node_does_a_new_trainer_start(monkeypatch, error, lost, gives_back, starts):
    living, fitted = {"a", "b"}, []

    class Trainer:
        def fit(self) -> None:
            fitted.append(1)
            if len(fitted) == 1:
                living.difference_update(lost)
                raise error

    monkeypatch.setattr(restart, "living_nodes", lambda: {*living})
    monkeypatch.setattr(restart, "_gave_back", lambda: gives_back)
    if starts == 1:
        with pytest.raises(type(error)):
            restart.fit_despite_losses(Trainer)
    else:
        restart.fit_despite_losses(Trainer)
    assert len(fitted) == starts


def test_a_node_that_ray_still_lists_is_gone_once_nobody_answers_there(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        listed = {"NodeID": HERE, "Alive": True, "NodeManagerAddress": "127.0.0.1", "NodeManagerPort": port}
        monkeypatch.setattr(ray, "is_initialized", lambda: True)
        monkeypatch.setattr(ray, "nodes", lambda: [listed, {"NodeID": GONE, "Alive": False}])
        assert living.living_nodes() == {HERE}
        assert (living.is_gone(HERE), living.is_gone(GONE), living.is_gone("unknown")) == (False, True, False)
    assert living.is_gone(HERE) and living.living_nodes() == set()


def test_without_a_connection_no_node_is_known_and_none_is_gone():
    assert (living.this_node(), living.living_nodes(), living.is_gone(HERE)) == ("", set(), False)


def test_a_damaged_line_of_announcements_is_passed_over(tmp_path: Path):
    attempt = Attempt.create(tmp_path)
    assert attempt.announced() == set()
    attempt.leaving.write_text('[]\n{"node_ids": 3}\nnull\n{"node\n')
    attempt.announce([HERE, GONE])
    assert attempt.announced() == {HERE, GONE}
