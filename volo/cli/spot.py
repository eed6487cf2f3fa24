"""Drain this machine's node of Ray when AWS says that it will take the machine away: runs save first.

    volo spot                                    in the background, on each spot machine, after `ray start`
    volo spot --address 10.0.0.1:6379

Asks AWS's instance metadata service every five seconds. Ends with exit code 0 when the node has been drained, and where
there is no such service.
"""

import dataclasses
import os
from collections.abc import Sequence

from volo.cli.parse import parse_flags, program
from volo.errors import InputError, brief

DEFAULT = "auto"


@dataclasses.dataclass(frozen=True)
class Flags:
    address: str | None = None
    """The Ray cluster, HOST:PORT. Default: $RAY_ADDRESS, or the one that this machine belongs to."""
    node_id: str | None = None
    """The node's id, where several run on this machine. Default: the node of this machine."""

    def check(self) -> None:
        """Raises InputError for what is no id."""
        from volo.cluster.spot import NODE_ID

        if self.node_id is not None and not NODE_ID.fullmatch(self.node_id):
            raise InputError(
                f"--node-id must have 56 hexadecimal digits, got {brief(self.node_id)}; leave it out for the node of "
                "this machine, or take one that `ray list nodes` prints"
            )


def main(argv: Sequence[str]) -> None:
    flags = parse_flags(Flags, argv, prog=program("spot"), description=__doc__)
    flags.check()
    address = flags.address or os.environ.get("RAY_ADDRESS") or DEFAULT
    _check_address(address, "--address" if flags.address else "$RAY_ADDRESS")
    from volo.cluster.metadata import MetadataService, SpotNotice
    from volo.cluster.spot import DrainError, SpotWatch, drain, node_here

    def node() -> str:
        return flags.node_id or node_here(address)

    def drain_here(notice: SpotNotice) -> None:
        drain(address, node_id := node(), notice)
        print(f"Ray drains node {node_id}", flush=True)

    service = MetadataService()
    watch = SpotWatch(service, drain_here, lambda message: print(message, flush=True))
    if not watch.has_service():
        print(f"no metadata service of AWS gives a token at {service.endpoint}: nothing to watch", flush=True)
        return
    try:
        print(f"watching for the end of this machine, to drain node {node()}", flush=True)
    except DrainError as error:
        raise InputError(
            f"a node of Ray must run on this machine, got none at {address} ({error}); start it first, ray start, and "
            "set RAY_AUTH_MODE=token with its token if it wants one"
        ) from None
    watch.run()


def _check_address(address: str, source: str) -> None:
    """Raises InputError for what is no cluster's address, and for a client's, which would name the head's node."""
    from volo.cluster.access import check_form

    check_form(address, source)
    if address == "local" or "://" in address:
        raise InputError(f"{source} must be HOST:PORT or auto, got {brief(address)}; use 10.0.0.1:6379, say")
