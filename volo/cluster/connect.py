"""One Ray cluster for the length of a job: the one whose address is known, or one of its own on this machine."""

import contextlib
import logging
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from volo.errors import InputError

# Ray reads these when it starts. Health checks every half second: a dead worker is noticed soon, and a report, which
# waits for the next check, costs little. A worker that answers none for two minutes is given up. Resources that do not
# come within ten seconds are looked for anew, so that an elastic number of workers shrinks soon after a node is lost; a
# fixed one goes on asking, without end, and a cluster that grows is not asked any less. The last but one keeps a
# cluster of one machine on loopback.
ENVIRONMENT = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    "RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S": "120",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "10",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_TRAIN_ENABLE_V2": "1",
}


OWN_CLUSTER = "local"


def resolved_address(address: str | None) -> str:
    """The address to connect to: the one given, else $RAY_ADDRESS, else a cluster of our own."""
    return address or os.environ.get("RAY_ADDRESS") or OWN_CLUSTER


@contextlib.contextmanager
def connected(address: str | None, num_cpus: int | None = None) -> Iterator[None]:
    """Connects to `address`, else to $RAY_ADDRESS, else starts a cluster and ends it at the end.

    Inside an open connection it does nothing, so that jobs can share a cluster.

    Args:
        address: As `ray.init` takes it, such as "auto" or "10.0.0.1:6379"; None as above.
        num_cpus: Of a cluster started here; None: all of the machine's.

    Raises:
        InputError: no cluster answers at the address.
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import ray

    if ray.is_initialized():
        yield
        return
    address = resolved_address(address)
    is_own = address == OWN_CLUSTER
    if is_own:
        _protect_own_cluster()
        print("starting Ray on this machine", flush=True)
    try:
        ray.init(
            address=address,
            num_cpus=num_cpus if is_own else None,
            include_dashboard=True if is_own else None,
            log_to_driver=False,
            logging_level=logging.ERROR,
            runtime_env=_shipped_code() if not is_own else None,
        )
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise InputError(
            f"a Ray cluster must answer at the address, got {address!r} ({error}); "
            "check --address and $RAY_ADDRESS, or leave both out for a cluster of its own"
        ) from None
    try:
        yield
    finally:
        ray.shutdown()


def _protect_own_cluster() -> None:
    """A token for this cluster alone, handed to its processes by the environment: no file that others could read.

    A token or mode that the user has chosen stays.
    """
    chosen = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
    if not any(os.environ.get(name) for name in chosen):
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


def _shipped_code() -> dict | None:
    """This package for the workers of another cluster; within a Ray job they have the job's working directory."""
    if os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR"):
        return None
    return {"py_modules": [str(Path(__file__).parents[1])]}
