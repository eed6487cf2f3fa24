"""What workers tell the driver, from any node: an actor on the driver's node writes it into the attempt's folder there.

So the nodes of a cluster need no disk in common. Controller and driver, on one node, read the files.
"""

import contextlib
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from volo.cluster.attempt import Attempt, Member
from volo.cluster.failures import Failure
from volo.data.contents import Contents

ANSWER_S = 30.0  # for the last words of a worker that has failed


class Scribe:
    """The actor. It dates what it is told, so that the clock of one node decides what came first."""

    def __init__(self, folder: str):
        self.attempt = Attempt(Path(folder))

    def show(self, record: dict[str, Any]) -> None:
        self.attempt.show(record)

    def begin(self, member: Member) -> None:
        self.attempt.begin(replace(member, since=time.time()))

    def note(self, failure: Failure, details: str) -> None:
        self.attempt.note(replace(failure, time=time.time()), details)

    def announce(self, node_ids: list[str]) -> None:
        self.attempt.announce(node_ids)

    def begin_trial(self, number: int) -> None:
        self.attempt.begin_trial(number)

    def asked(self) -> int:
        return self.attempt.asked()

    def images(self, digest: str) -> Contents | None:
        return self.attempt.images(digest)


class Told:
    """An attempt as its workers use it, wherever they are."""

    def __init__(self, attempt: Attempt):
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        actor: Any = ray.remote(num_cpus=0, max_restarts=-1)(Scribe)
        self.folder = attempt.folder
        self._scribe = actor.options(scheduling_strategy=here).remote(str(attempt.folder))
        self._question: ray.ObjectRef | None = None

    def show(self, record: dict[str, Any]) -> None:
        self._scribe.show.remote(record)

    def begin_trial(self, number: int) -> None:
        self._scribe.begin_trial.remote(number)

    def begin(self, member: Member) -> None:
        """Returns when it is written down. Raises OSError if it cannot be."""
        self._wait_for(self._scribe.begin.remote(member))

    def note(self, failure: Failure, details: str) -> None:
        """As `begin`."""
        self._wait_for(self._scribe.note.remote(failure, details))

    def announce(self, node_ids: list[str]) -> None:
        """As `begin`."""
        self._wait_for(self._scribe.announce.remote(node_ids))

    def asked(self) -> int:
        """The answer to the question of an earlier call, if it is there: training waits for no network."""
        if self._question is None:
            self._question = self._scribe.asked.remote()
        ready, _ = ray.wait([self._question], timeout=0)
        if not ready:
            return 0
        question, self._question = self._question, None
        try:
            return ray.get(question)
        except ray.exceptions.RayError:
            return 0

    def asked_now(self) -> int:
        """As `asked`, once the answer is there; 0 if the driver's node does not give one."""
        with contextlib.suppress(ray.exceptions.RayError, TimeoutError):
            return ray.get(self._scribe.asked.remote(), timeout=ANSWER_S)
        return 0

    def images(self, digest: str) -> Contents | None:
        """The images that the driver has; None if they are not known there."""
        with contextlib.suppress(ray.exceptions.RayError, TimeoutError):
            return ray.get(self._scribe.images.remote(digest), timeout=ANSWER_S)
        return None

    def finish(self) -> None:
        """Returns when everything that was told is written down. A training that has ended does not fail for it."""
        with contextlib.suppress(OSError):
            self._wait_for(self._scribe.asked.remote())

    def _wait_for(self, written: ray.ObjectRef) -> None:
        try:
            ray.get(written, timeout=ANSWER_S)
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, OSError):
                raise OSError(error.cause.errno, error.cause.strerror, error.cause.filename) from None
            raise
        except (ray.exceptions.RayError, TimeoutError) as error:
            raise OSError(f"the driver's node does not answer ({error})") from None
