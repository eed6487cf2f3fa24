"""One Ray cluster for the length of a job: an existing one at a given address, or its own on this machine."""

import contextlib
import logging
import os
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from volo.allocator import memory_kept_by_children, variables
from volo.cluster.access import (
    LOOPBACK,
    check_answer,
    check_dashboard_host,
    check_form,
    check_token_file,
    protect_own_cluster,
    reads_token_file,
    user_can_enter,
)
from volo.cluster.connection_thread import kept_connection, told_as
from volo.cluster.folder import session_folder
from volo.cluster.limits import allow_open_files
from volo.errors import InferenceError, InputError, TrainingError, brief
from volo.hosts import is_loopback
from volo.log import LOGGER
from volo.settings.paths import home
from volo.settings.ray_job import MORE_TIME, STOP_WAIT, hurry, in_ray_job

WATCHER = "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"
# Ray reads these when it starts. With a health check every half second, a dead worker is noticed soon, and a report,
# which waits for the next check, costs little. A worker that does not answer for two minutes is given up. A request for
# resources is repeated after ten seconds, so that an elastic number of workers shrinks soon after a node is lost; a
# fixed number keeps asking for an hour.
ENVIRONMENT = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    "RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S": "120",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "10",
    "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "2",
    "RAY_TRAIN_V2_ENABLED": "1",
}
# Nobody takes a node of our own cluster away with notice: the watcher would be one more process to start.
ON_OWN_CLUSTER = {WATCHER: "0"}
QUIET: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
OWN_CLUSTER = "local"
START_S, ANSWER_S = 120.0, 40.0


def resolved_address(address: str | None) -> str:
    """The address to connect to: the given one, otherwise $RAY_ADDRESS, otherwise our own cluster."""
    return address or os.environ.get("RAY_ADDRESS") or OWN_CLUSTER


def check_access(address: str | None, dashboard_host: str = LOOPBACK) -> None:
    """Raises InputError if the address is not one of a cluster, or if others could read the token, or reach the
    dashboard without one."""
    check_form(resolved_address(address), "--address" if address else "$RAY_ADDRESS")
    address = resolved_address(address)
    if address != OWN_CLUSTER and dashboard_host != LOOPBACK:
        raise InputError(
            f"dashboard_host has no effect on an existing cluster, got dashboard_host={dashboard_host} with "
            f"{address}; leave it out, or unset $RAY_ADDRESS"
        )
    check_dashboard_host(dashboard_host)
    if reads_token_file(address, dashboard_host):
        check_token_file()


def prepare(address: str | None, dashboard_host: str = LOOPBACK) -> None:
    """Sets Ray's environment for a later `connected`. Call it before Ray is imported, which reads most of it then.

    Raises:
        InputError: as `check_access`.
    """
    check_access(address, dashboard_host)
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if home() is None:  # Ray could not be imported
        os.environ["HOME"] = "/"  # as in a container that Docker starts for such a user
    if resolved_address(address) == OWN_CLUSTER:
        for name, value in ON_OWN_CLUSTER.items():
            os.environ.setdefault(name, value)
        protect_own_cluster(OWN_CLUSTER, dashboard_host)


@contextlib.contextmanager
def connected(
    address: str | None,
    num_cpus: int | None = None,
    dashboard_host: str = LOOPBACK,
    needs_dashboard: bool = False,
    loss: type[TrainingError] | type[InferenceError] = TrainingError,
) -> Iterator[str | None]:
    """Connects to `address`, otherwise to $RAY_ADDRESS, otherwise starts a cluster, and ends it at the end.

    Inside an open connection it does nothing, so that jobs can share a cluster.

    Args:
        address: As `ray.init` takes it, such as "auto" or "10.0.0.1:6379"; None as above.
        num_cpus: Number of CPUs of a cluster started here; None for all of the machine's.
        dashboard_host: Where the dashboard and job API of a cluster started here listen.
        needs_dashboard: Start the dashboard even if nobody has its token. Otherwise it is left out then: nobody could
            open it, and it takes one percent of two cores and the first seconds of a job.
        loss: What to raise if a cluster started here loses a process that it cannot do without.

    Yields:
        HOST:PORT of the dashboard; None if there is none, or if the connection was already open.

    Raises:
        InputError: no cluster answers at the address, or it wants another token; as `check_access`; Ray was imported
            too early to keep a cluster started here to this machine.
        TrainingError, or `loss`: a cluster started here was lost.
    """
    if "ray" in sys.modules and sys.modules["ray"].is_initialized():
        yield None
        return
    prepare(address, dashboard_host)
    import ray

    address = resolved_address(address)
    is_own = address == OWN_CLUSTER
    with contextlib.ExitStack() as ending:
        folder = None
        if is_own:
            allow_open_files()
            print("starting Ray on this machine", flush=True)
            ending.enter_context(told_as(loss))
            folder = ending.enter_context(session_folder())
            ending.enter_context(memory_kept_by_children())
        try:
            dashboard = ending.enter_context(
                kept_connection(
                    partial(_started, num_cpus, dashboard_host, needs_dashboard)
                    if is_own
                    else partial(_joined, address),
                    "Ray to start on this machine" if is_own else f"the Ray cluster at {address} to answer",
                    START_S if is_own else ANSWER_S,
                    folder,
                    loss.heading,
                )
            )
        except (ConnectionError, ValueError, RuntimeError, ray.exceptions.AuthenticationError) as error:
            raise InputError(
                f"a Ray cluster must answer at the address, got {brief(address)} ({error}); "
                "check --address and $RAY_ADDRESS, and RAY_AUTH_MODE=token with its token if it wants one, or leave "
                "them out to start a cluster for this job"
            ) from None
        yield dashboard


def _started(num_cpus: int | None, dashboard_host: str, needs_dashboard: bool) -> str | None:
    """Starts a cluster that only this machine can reach, and there only those who have its token."""
    import ray

    check_stays_here(ray.util.get_node_ip_address())
    started = ray.init(
        address=OWN_CLUSTER,
        num_cpus=num_cpus,
        include_dashboard=user_can_enter(OWN_CLUSTER, dashboard_host) or needs_dashboard,
        dashboard_host=dashboard_host,
        **QUIET,
    )
    return started.dashboard_url or None


def check_stays_here(address: str) -> None:
    """Raises InputError if Ray would bind a new cluster to an address that other machines can reach."""
    if not is_loopback(address):
        raise InputError(
            f"a cluster started for this command must stay on this machine, got the address {address}, since Ray was "
            "imported before volo.cluster; import volo.cluster first, or set RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0"
        )


def _joined(address: str) -> str | None:
    import ray

    check_answer(address)
    if in_ray_job() and (found := hurry(os.environ.get(STOP_WAIT))):
        LOGGER.warning(f"{found}; {MORE_TIME}")
    return ray.init(address=address, runtime_env=_for_workers(), **QUIET).dashboard_url


def _for_workers() -> dict[str, Any]:
    """This package, for the workers of an existing cluster, and an allocator that keeps memory. Inside a Ray job they
    have the job's working directory, and Ray adds these variables to the job's own."""
    code = {} if in_ray_job() else {"py_modules": [str(Path(__file__).parents[1])]}
    return {**code, "env_vars": variables()}
