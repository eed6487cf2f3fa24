"""What AWS says of the end of a spot machine, passed on to Ray: its node is drained, and whoever trains there saves."""

import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from volo.cluster.access import check_answer
from volo.cluster.metadata import MetadataError, MetadataService, SpotNotice
from volo.errors import cut, visible

POLL_S = 5.0  # as AWS recommends
ATTEMPTS = 3  # until a service that never answered is taken for none
NO_TOKEN = {400, 401, 403, 404, 405, 501}  # from a server that is not AWS's, or one that is switched off
RAY_S = 60.0  # on a machine whose cores are all at work
REASON = "DRAIN_NODE_REASON_PREEMPTION"
NODE_ID = re.compile(r"[0-9a-f]{56}")
TELL_NODE = (
    "import sys, ray; ray.init(address=sys.argv[1], log_to_driver=False, logging_level='ERROR'); "
    "print(ray.get_runtime_context().get_node_id())"
)


class DrainError(Exception):
    """Ray does not tell this machine's node, or does not drain it."""


class SpotWatch:
    """Asks AWS every POLL_S, and says each thing once, also what goes wrong, after which it asks on.

    Args:
        service: What is asked.
        drain: Called upon a notice, and again POLL_S after each DrainError.
        say: Where messages go.
    """

    def __init__(self, service: MetadataService, drain: Callable[[SpotNotice], None], say: Callable[[str], None]):
        self._service, self._drain, self._tell = service, drain, say
        self._said: set[str] = set()

    def has_service(self) -> bool:
        """Whether AWS's service is there, which gives a token."""
        for attempt in range(ATTEMPTS):
            if attempt:
                time.sleep(POLL_S)
            try:
                self._service.renew()
            except MetadataError as error:
                if not error.status:
                    continue
                if error.status in NO_TOKEN:
                    return False
                self._say_fault(error)
            return True
        return False

    def run(self) -> None:
        """Returns when the node has been drained."""
        while not self.look():
            time.sleep(POLL_S)

    def look(self) -> bool:
        """Asks for a notice, and for a recommendation. Returns whether the node has been drained."""
        try:
            if (notice := self._service.notice()) is not None:
                self._say(f"AWS will {notice.action} this machine in {notice.remaining_s()} s", notice.action)
                self._drain(notice)
                return True
            if (since := self._service.rebalance()) is not None:
                self._say(f"AWS says since {since:%Y-%m-%d %H:%M} UTC that it may take this machine away", "rebalance")
        except (MetadataError, DrainError) as error:
            self._say_fault(error)
        return False

    def _say_fault(self, error: Exception) -> None:
        self._say(f"{error}; asking again every {POLL_S:g} s", str(error).partition(", got ")[0])

    def _say(self, message: str, key: str) -> None:
        """Unless something with that key has been said."""
        if key not in self._said:
            self._said.add(key)
            self._tell(message)


def node_here(address: str) -> str:
    """The id of the Ray node that runs on this machine. Raises DrainError."""
    try:
        check_answer(address)
    except ConnectionError as error:
        raise DrainError(f"Ray does not answer at {address}: {error}") from None
    said = _told(sys.executable, "-c", TELL_NODE, address)
    if not (found := NODE_ID.findall(said)):
        raise DrainError(f"Ray at {address} tells no node of this machine, but {_last_line(said)!r}")
    return found[-1]


def drain(address: str, node_id: str, notice: SpotNotice) -> None:
    """Has Ray tell everyone that the node will be taken away, and when. Raises DrainError."""
    _told(
        str(Path(sys.executable).with_name("ray")), "drain-node", "--address", address, "--node-id", node_id,
        "--reason", REASON, "--reason-message", f"AWS will {notice.action} this spot machine",
        "--deadline-remaining-seconds", str(notice.remaining_s()),
    )  # fmt: skip


def _told(*command: str) -> str:
    """What a command prints. Raises DrainError if it fails, or takes longer than RAY_S."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=RAY_S, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired:
        raise DrainError(f"Ray does not answer within {RAY_S:g} s") from None
    except OSError as error:
        raise DrainError(f"{command[0]} cannot be started ({error.strerror})") from None
    if done.returncode:
        raise DrainError(f"Ray fails with {_last_line(done.stderr)!r}")
    return done.stdout


def _last_line(text: str) -> str:
    return cut(visible(next(iter(text.strip().splitlines()[::-1]), "")))
