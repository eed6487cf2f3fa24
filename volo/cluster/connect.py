"""One Ray cluster for the length of a job: the one whose address is known, or one of its own on this machine."""

import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from volo.cluster.access import (
    LOOPBACK,
    check_dashboard_host,
    check_token_file,
    listens,
    protect_own_cluster,
    reads_token_file,
)
from volo.errors import InputError

# Ray reads these when it starts. Health checks every half second: a dead worker is noticed soon, and a report, which
# waits for the next check, costs little. A worker that answers none for two minutes is given up. Resources that do not
# come within ten seconds are looked for anew, so that an elastic number of workers shrinks soon after a node is lost; a
# fixed one goes on asking, for an hour, and a cluster that grows is not asked any less. What the watcher for nodes
# about to be taken away says is read by nothing here; it would be one process more to start before each training.
ENVIRONMENT = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    "RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S": "120",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "10",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_ENABLE_V2": "1",
}
LOOPBACK_ONLY = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"  # 0: no cluster of several machines
QUIET: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
OWN_CLUSTER = "local"


def resolved_address(address: str | None) -> str:
    """The address to connect to: the one given, else $RAY_ADDRESS, else a cluster of our own."""
    return address or os.environ.get("RAY_ADDRESS") or OWN_CLUSTER


def check_access(address: str | None, dashboard_host: str = LOOPBACK) -> None:
    """Raises InputError for what would leave a door open: a token that others can read, a dashboard that others can
    reach without one."""
    address = resolved_address(address)
    if address != OWN_CLUSTER and dashboard_host != LOOPBACK:
        raise InputError(
            f"dashboard_host has no effect on a cluster that is there, got dashboard_host={dashboard_host} with "
            f"{address}; leave it out, or unset $RAY_ADDRESS"
        )
    check_dashboard_host(dashboard_host)
    if reads_token_file(address, dashboard_host):
        check_token_file()


@contextlib.contextmanager
def connected(
    address: str | None,
    num_cpus: int | None = None,
    dashboard_host: str = LOOPBACK,
    needs_dashboard: bool = False,
) -> Iterator[str | None]:
    """Connects to `address`, else to $RAY_ADDRESS, else starts a cluster and ends it at the end.

    Inside an open connection it does nothing, so that jobs can share a cluster.

    Args:
        address: As `ray.init` takes it, such as "auto" or "10.0.0.1:6379"; None as above.
        num_cpus: Of a cluster started here; None: all of the machine's.
        dashboard_host: Where the dashboard and job API of a cluster started here listen.
        needs_dashboard: Start it even where nobody has its token. Else it is left out there: nobody could open it, and
            it takes from two cores a hundredth of their time and the first seconds of a job.

    Yields:
        HOST:PORT of the dashboard; None where there is none or the connection was open before.

    Raises:
        InputError: no cluster answers at the address, or it wants another token; as `check_access`.
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import ray

    if ray.is_initialized():
        yield None
        return
    check_access(address, dashboard_host)
    address = resolved_address(address)
    is_own = address == OWN_CLUSTER
    if is_own:
        print("starting Ray on this machine", flush=True)
    try:
        dashboard = _started(num_cpus, dashboard_host, needs_dashboard) if is_own else _joined(address)
    except (ConnectionError, ValueError, RuntimeError, ray.exceptions.AuthenticationError) as error:
        raise InputError(
            f"a Ray cluster must answer at the address, got {address!r} ({error}); "
            "check --address and $RAY_ADDRESS, and RAY_AUTH_MODE=token with its token where it wants one, or leave all "
            "out for a cluster of its own"
        ) from None
    try:
        yield dashboard
    finally:
        ray.shutdown()


def _started(num_cpus: int | None, dashboard_host: str, needs_dashboard: bool) -> str | None:
    """Starts a cluster that this machine alone can reach, and there only who has its token."""
    import ray

    has_dashboard = protect_own_cluster(OWN_CLUSTER, dashboard_host) or needs_dashboard
    with _on_loopback():
        started = ray.init(
            address=OWN_CLUSTER,
            num_cpus=num_cpus,
            include_dashboard=has_dashboard,
            dashboard_host=dashboard_host,
            **QUIET,
        )
    _end_log_monitor()
    return started.dashboard_url or None


def _end_log_monitor() -> None:
    """Ends the process that reads all logs ten times a second, to send them to drivers: here none wants them."""
    import ray

    node: Any = ray._private.worker._global_node
    node.kill_log_monitor(check_alive=False)


def _joined(address: str) -> str | None:
    import ray

    if not listens(address):
        raise ConnectionError("nothing listens there")
    return ray.init(address=address, runtime_env=_shipped_code(), **QUIET).dashboard_url


@contextlib.contextmanager
def _on_loopback() -> Iterator[None]:
    """Makes Ray bind all it starts to 127.0.0.1. The variable is for its processes; in this one it was read when Ray
    was imported, before it was known that the cluster would be our own."""
    from ray._private import ray_constants

    variable, is_enabled = os.environ.get(LOOPBACK_ONLY), ray_constants.ENABLE_RAY_CLUSTER
    os.environ[LOOPBACK_ONLY], ray_constants.ENABLE_RAY_CLUSTER = "0", False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = is_enabled
        if variable is None:
            del os.environ[LOOPBACK_ONLY]
        else:
            os.environ[LOOPBACK_ONLY] = variable


def _shipped_code() -> dict | None:
    """This package for the workers of another cluster; within a Ray job they have the job's working directory."""
    if os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR"):
        return None
    return {"py_modules": [str(Path(__file__).parents[1])]}
