"""What ended the workers of a training on Ray: the first cause among many errors, described for a person."""

import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import ray.exceptions
import torch.distributed as dist

from volo.errors import InputError, Stopped, TrainingError
from volo.frames import own_frame

LOST = "lost"
FINAL_ERRORS = {"InputError": InputError, "TrainingError": TrainingError, "Stopped": Stopped}
GONE = (
    ray.exceptions.RayActorError,
    ray.exceptions.WorkerCrashedError,
    ray.exceptions.NodeDiedError,
    ray.exceptions.OutOfMemoryError,
)
NEIGHBOR_WORDS = ("gloo", "NCCL", "Connection closed by peer", "Connection reset by peer")
MAX_MESSAGE = 400
MEMORY_HINT = (
    "the system kills processes when memory runs out (see dmesg on the node): use fewer workers per node or a smaller "
    "--batch-size"
)


class WorkerLoss(NamedTuple):
    """What became of a worker's process, and what to do about it."""

    message: str
    hint: str = ""
    is_of_node: bool = False


NODE_GONE = WorkerLoss(
    "its node is gone", "with --num-workers MIN:MAX training continues on the remaining nodes", is_of_node=True
)
NODE_TAKEN = WorkerLoss("its node was taken away", is_of_node=True)


@dataclass(frozen=True)
class Failure:
    """What ended a worker.

    Args:
        kind: One of FINAL_ERRORS, which no restart can fix; an exception's name; or LOST, if the process is gone.
        frame: The line of the user's own code that raised it.
        step: The step that training had reached.
        log: A file with details, on the worker's node if the worker was lost.
        is_echo: Whether it only reports the end of another worker.
        may_pass: Whether a restart may avoid it, because its cause lies outside the program.
        is_repeated: Whether the previous start ended the same way at the same step.
        is_last: Whether --max-failures allows no other start.
        is_of_node: Whether the worker's node is gone with it.
        is_free: Whether it costs no --max-failures: the node was taken away with notice, or before training began.
    """

    rank: int
    num_workers: int
    node: str
    pid: int
    kind: str
    message: str
    time: float
    frame: str = ""
    step: int = 0
    log: str = ""
    hint: str = ""
    is_echo: bool = False
    may_pass: bool = True
    is_repeated: bool = False
    is_last: bool = False
    is_of_node: bool = False
    is_free: bool = False

    @property
    def who(self) -> str:
        return f"worker {self.rank} of {self.num_workers}" + (f" on {self.node}" if self.node else "")

    @property
    def is_final(self) -> bool:
        return self.kind in FINAL_ERRORS or self.is_repeated or self.is_last

    def headline(self) -> str:
        verb = "was lost: " if self.kind == LOST else f"raised {self.kind}: "
        return f"{self.who} {verb}{self.message}"

    def details(self) -> str:
        """Lines to print below the headline."""
        parts = {"at": self.frame, "hint": self.hint, "log": self.log}
        return "".join(f"\n  {name}: {value}" for name, value in parts.items() if value)

    def comes_after(self, before: "Failure | None") -> "Failure":
        """This failure, marked as repeated if the previous start ended with an equal error at an equal step.

        Every start computes the same from a checkpoint, so a third start would end there as well.
        """
        same = before and (before.kind, before.frame, before.step) == (self.kind, self.frame, self.step)
        return replace(self, is_repeated=bool(same) and not self.may_pass)


def failure_of(error: Exception, *, step: int, log: str, **member) -> Failure:
    """The failure that a worker reports of itself. `member` holds the fields of a `Member`."""
    kind = next((name for name, kind in FINAL_ERRORS.items() if isinstance(error, kind)), type(error).__name__)
    is_echo = kind not in FINAL_ERRORS and tells_of_neighbor(error)
    return Failure(
        **{name: member[name] for name in ("rank", "num_workers", "node", "pid")},
        kind=kind,
        message=str(error) if kind in FINAL_ERRORS else _shortly(error),
        time=time.time(),
        frame=own_frame(traceback.extract_tb(error.__traceback__)),
        step=step,
        log=log,
        is_echo=is_echo,
        may_pass=is_echo or isinstance(error, OSError),
    )


def tells_of_neighbor(error: Exception) -> bool:
    """Whether an error only says that another worker is gone."""
    is_of_group = isinstance(error, RuntimeError) and any(word in str(error) for word in NEIGHBOR_WORDS)
    return isinstance(error, dist.DistError) or is_of_group


def first_cause(
    noted: Iterable[Failure],
    raised: Mapping[int, Exception],
    members: Iterable,
    is_gone: Callable[[str], bool] = lambda node_id: False,
) -> Failure | None:
    """Why all workers had to end.

    In order of priority: an error that no restart can fix; a lost process, which may be all that the other errors are
    about; the earliest error of a worker's own; a worker that reported nothing while others report the end of a
    neighbor; any other error.

    Args:
        noted: The failures that workers wrote down, the earliest first.
        raised: The exception that Ray reports for each rank.
        members: Every `Member` that had begun.
        is_gone: Whether the node with an id is gone. To Ray, and to the other workers, a lost node looks like a lost
            process until Ray misses the node.
    """
    noted, members = list(noted), {member.rank: member for member in members}
    gone = {rank: told for rank, error in sorted(raised.items()) if (told := told_of_loss(error))}
    own = [failure for failure in noted if not failure.is_echo]
    silent = [rank for rank in members if rank not in {failure.rank for failure in noted}]
    if final := [failure for failure in own if failure.kind in FINAL_ERRORS]:
        return final[0]
    if gone:
        on_node = {rank: _with_node(told, members.get(rank), is_gone) for rank, told in gone.items()}
        rank = min(on_node, key=lambda rank: (on_node[rank] != NODE_TAKEN, not on_node[rank].is_of_node))
        return replace(_lost(rank, on_node[rank], members), is_free=on_node[rank] == NODE_TAKEN)
    if own:
        return own[0]
    if noted and silent:
        others = f" (or worker {', '.join(map(str, silent[1:]))}, which reported nothing either)" if silent[1:] else ""
        told = WorkerLoss(
            f"worker {noted[0].rank} found the connection to it closed{others}",
            f"its process is gone, or its node cannot be reached; {MEMORY_HINT}",
        )
        on_node = {rank: _with_node(told, members[rank], is_gone) for rank in silent}
        rank = next((rank for rank in silent if on_node[rank].is_of_node), silent[0])
        return _lost(rank, on_node[rank], members)
    if noted:
        return noted[0]
    for rank, error in sorted(raised.items()):
        hint = "every node must see the run folder: --output-dir" if isinstance(error, OSError) else ""
        return replace(_lost(rank, WorkerLoss(_shortly(error), hint), members), kind=type(error).__name__)
    return None


def _shortly(error: Exception) -> str:
    """The first line; the log has the whole message."""
    return next(iter(str(error).strip().splitlines()), "no message")[:MAX_MESSAGE]


def is_taken(error: Exception) -> bool:
    """Whether Ray says that a worker went with a node that was being drained."""
    return bool(getattr(getattr(error, "health_check_failure", error), "preempted", False))


def told_of_loss(error: Exception) -> WorkerLoss | None:
    """What Ray says of a lost worker; None for an error that the worker itself raised."""
    error = getattr(error, "health_check_failure", error)
    if not isinstance(error, GONE):
        return None
    text = str(error)
    if is_taken(error):
        return NODE_TAKEN
    if "node has died" in text or isinstance(error, ray.exceptions.NodeDiedError):
        return NODE_GONE
    if "low on memory" in text or isinstance(error, ray.exceptions.OutOfMemoryError):
        return WorkerLoss("Ray ended it because its node ran low on memory", MEMORY_HINT)
    if isinstance(error, ray.exceptions.ActorUnavailableError):
        return WorkerLoss("it cannot be reached", "check the network between the nodes")
    return WorkerLoss("its process ended without an error: killed, or crashed in native code", MEMORY_HINT)


def _with_node(told: WorkerLoss, member: Any, is_gone: Callable[[str], bool]) -> WorkerLoss:
    """The loss of the whole node, if it is gone."""
    is_lost = not told.is_of_node and member is not None and is_gone(member.node_id)
    return NODE_GONE if is_lost else told


def _lost(rank: int, told: WorkerLoss, members: Mapping) -> Failure:
    found = members.get(rank)
    num_workers = next(iter(members.values())).num_workers if members else rank + 1
    return Failure(
        rank=rank,
        num_workers=num_workers,
        node=found.node if found else "",
        pid=found.pid if found else 0,
        kind=LOST,
        message=told.message,
        time=time.time(),
        log=f"{found.output} on {found.node}" if found and found.output and not told.is_of_node else "",
        hint=told.hint,
        is_of_node=told.is_of_node,
    )
