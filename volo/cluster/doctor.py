"""What `volo doctor` checks of a Ray cluster: that it answers, who could reach it, whether its nodes share a disk.

One small task per node does the checks there. What training needs of the nodes is asked in volo/cluster/nodes.
"""

import contextlib
import json
import os
import secrets
import socket
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from volo.cluster.access import HOW_TO_MAKE, check_token_file, token_file, user_can_enter
from volo.cluster.connect import OWN_CLUSTER, check_access, connected, resolved_address
from volo.cluster.folder import find_base
from volo.cluster.nodes.asking import Node, alive_nodes, ask
from volo.doctor.findings import Finding, failure, ok, warning
from volo.errors import InputError
from volo.files import existing
from volo.hosts import is_loopback
from volo.settings.buckets import is_in_bucket
from volo.settings.config import ResolvedSettings
from volo.settings.ray_job import MORE_TIME, STOP_WAIT, hurry
from volo.settings.run import RunSettings
from volo.storage.bucket import check_bucket

ANSWER_S = 3.0
OTHER_FOLDER = "set --output-dir to a folder that every node sees under one path"
CLOSE = f"start the head with RAY_AUTH_MODE=token and a token, {HOW_TO_MAKE}"


def check_address(address: str | None) -> Finding:
    """Whether it is clear which cluster a job will use, or that it will start its own."""
    resolved = resolved_address(address)
    source = "--address" if address else "$RAY_ADDRESS"
    if resolved == "auto":
        return warning("address", f"auto from {source}: whatever cluster is found", "name HOST:PORT")
    if resolved != OWN_CLUSTER:
        return ok("address", f"{resolved} from {source}")
    running = clusters_here()
    if running and not os.environ.get("RAY_ADDRESS"):
        return warning(
            "address", f"none is set while Ray runs here, at {', '.join(running)}",
            "use that cluster with --address, or set RAY_ADDRESS=local so that the job starts its own",
        )  # fmt: skip
    return ok("address", "none: jobs start their own cluster")


def clusters_here() -> list[str]:
    """Addresses of the Ray clusters with a node on this machine, read from /proc; empty on systems without it."""
    found = set()
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            words = file.read_bytes().decode(errors="replace").split("\0")
            found |= {word.partition("=")[2] for word in words if word.startswith("--gcs-address=")}
    return sorted(found)


def check_doors(run: RunSettings) -> Finding:
    """Who could use the token, or reach a cluster that a job would start.

    Raises:
        InputError: as `check_access`; others can read the token's file, whether or not it is used now.
    """
    check_access(run.address, run.dashboard_host)
    check_token_file()
    file = token_file()
    token = f"only its owner can read {file}" if os.path.exists(file) else "no token file"
    if resolved_address(run.address) != OWN_CLUSTER:
        return ok("access", token)
    if not user_can_enter(OWN_CLUSTER, run.dashboard_host):
        return ok("access", f"{token}; to open the dashboard of a cluster that a command starts, set RAY_AUTH_TOKEN")
    where = "on loopback only" if is_loopback(run.dashboard_host) else f"on {run.dashboard_host}, by token"
    return ok("access", f"{token}; the dashboard of a cluster that a command starts is {where}")


def check_folder() -> Finding:
    """Where a cluster that a job starts would have its temporary folder.

    Raises:
        InputError: as `session_folder`.
    """
    return ok("Ray's folder", f"in {find_base()}, for this user alone, removed with the cluster")


def check_cluster(settings: ResolvedSettings) -> Iterator[Finding]:
    """Connects to the existing cluster, and checks it from each of its nodes.

    Raises:
        InputError: as `connected`.
    """
    import ray

    run = settings.run
    with connected(run.address) as dashboard:
        nodes, resources = alive_nodes(), ray.cluster_resources()
        yield _size(run, len(nodes), resources)
        if is_in_bucket(run.output_dir):
            visits = _visits(nodes, None, "", dashboard)
            yield from _reachable(visits, dashboard)
            yield from _stopping(visits)
            yield _storage(nodes, run.output_dir)
        else:
            yield from _with_disk(nodes, Path(run.output_dir), dashboard)
        yield from _able_to_train(nodes, settings, int(resources.get("GPU", 0)))


def _able_to_train(nodes: list[Node], settings: ResolvedSettings, num_gpus: int) -> Iterator[Finding]:
    """Of the nodes that can hold a worker."""
    from volo.cluster.nodes.alike import check_clocks, check_node_data, check_node_versions
    from volo.cluster.nodes.network import check_network
    from volo.cluster.nodes.room import check_rooms
    from volo.cluster.workers import wanted_workers  # these import Ray, before which `connected` sets its environment

    workers = wanted_workers(settings.run, num_gpus)
    able = [node for node in nodes if (node.num_gpus if workers.use_gpu else node.num_cpus)]
    if not able:
        return  # `_size` has said so
    yield check_node_versions(able)
    yield from check_rooms(able, settings)
    yield check_node_data(able, settings.data)
    yield check_clocks(able)
    yield check_network(able, workers.use_gpu, workers.num_workers)


def _with_disk(nodes: list[Node], output_dir: Path, dashboard: str | None) -> Iterator[Finding]:
    """What the nodes report, and whether they share the output folder."""
    try:
        with _probe(output_dir) as (folder, word):
            visits = _visits(nodes, folder, word, dashboard)
            yield from _reachable(visits, dashboard)
            yield from _stopping(visits)
            yield _shared(visits, folder, word)
    except OSError as error:
        yield failure("shared storage", f"{error.filename} cannot be used ({error.strerror})", OTHER_FOLDER)


def _storage(nodes: list[Node], url: str) -> Finding:
    """Whether every node can use the place on object storage."""
    answers = ask(nodes, bucket_of, lambda node: (url,))
    if wrong := [f"{node.name}: {why}" for node, one in answers.items() if (why := one.value or one.fault)]:
        return failure("object storage", "; ".join(wrong), "make it the same on all nodes")
    return ok("object storage", f"{url} is read and written by every node")


def bucket_of(url: str) -> str:
    """On a node: what is wrong with a place on object storage; empty if nothing is."""
    try:
        check_bucket(url, "--output-dir")
    except InputError as error:
        return str(error)
    return ""


def _size(run: RunSettings, num_nodes: int, resources: dict[str, float]) -> Finding:
    cores, gpus = int(resources.get("CPU", 0)), int(resources.get("GPU", 0))
    found = f"{num_nodes} node{'s' * (num_nodes != 1)}, {cores} cores, {gpus} GPUs"
    wanted = run.min_workers or 1
    if wanted > (min(cores, gpus) if run.device == "cuda" else cores):
        return warning("cluster", f"{found} for {wanted} workers", "training will wait until the cluster has grown")
    return ok("cluster", found)


@contextlib.contextmanager
def _probe(output_dir: Path) -> Iterator[tuple[Path, str]]:
    """A temporary folder next to the run folders, with a file whose content nobody could guess."""
    above = existing(output_dir)
    word = secrets.token_hex(8)
    with tempfile.TemporaryDirectory(prefix=".volo-doctor-", dir=above, ignore_cleanup_errors=True) as folder:
        os.chmod(folder, 0o777)  # workers may run as another user
        Path(folder, "driver").write_text(word)
        yield Path(folder), word


def _visits(nodes: list[Node], folder: Path | None, word: str, dashboard: str | None) -> dict[str, dict[str, Any]]:
    """What a task on each node reports, by node identifier; only name, address and fault if it did not answer."""

    def arguments(node: Node) -> tuple:
        return folder and str(folder), node.id, dashboard if node.is_head else None

    return {
        node.id: {"address": node.address, "name": node.name, "fault": answer.fault, **(answer.value or {})}
        for node, answer in ask(nodes, visit, arguments).items()
    }


def visit(folder: str | None, node_id: str, dashboard: str | None) -> dict[str, Any]:
    """On a node: reads the driver's file and writes its own, if there is a folder; on the head, asks the dashboard who
    may use it."""
    report: dict[str, Any] = {"host": socket.gethostname()}
    try:
        if folder:
            report["read"] = Path(folder, "driver").read_text()
            Path(folder, node_id).write_text(report["read"])
    except OSError as error:
        report["error"] = error.strerror
    if dashboard:
        report |= {"mode": authentication_of(dashboard), "is_open": reachable_by_others(dashboard)}
        report["stop_wait"] = os.environ.get(STOP_WAIT)
    return report


def authentication_of(dashboard: str) -> str | None:
    """`token` or `disabled`, as the dashboard says; None if it does not answer."""
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(f"http://{dashboard}/api/authentication_mode", timeout=ANSWER_S) as answer:
            return json.load(answer)["authentication_mode"]
    except (OSError, ValueError, KeyError):
        return None


def reachable_by_others(dashboard: str) -> bool:
    """Whether the port is open at this machine's own address, not only on loopback."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as route:
        route.connect(("192.0.2.1", 9))  # sends nothing: says which address would be used
        own = route.getsockname()[0]
        if not is_loopback(own):
            socket.create_connection((own, int(dashboard.rpartition(":")[2])), timeout=ANSWER_S).close()
            return True
    return False


def _reachable(visits: dict[str, dict[str, Any]], dashboard: str | None) -> Iterator[Finding]:
    mode = next((visit["mode"] for visit in visits.values() if visit.get("mode")), None)
    if mode is None:
        yield warning(
            "dashboard", f"{dashboard or 'none'}: does not answer", "start the head with --include-dashboard=true; "
            "sweeps need it, and ray job submit",
        )  # fmt: skip
        return
    is_open = any(visit.get("is_open") for visit in visits.values())
    where = "others can reach it" if is_open else "on the head's loopback only"
    yield ok("dashboard", f"{dashboard} answers, {where}")
    alone = not is_open and all(is_loopback(visit["address"]) for visit in visits.values())
    if mode == "token":
        yield ok("authentication", "by token")
    elif alone:
        yield warning("authentication", "off: anyone on that machine can run code in the cluster", CLOSE)
    else:
        yield failure("authentication", "off: anyone who reaches the cluster's network can run code in it", CLOSE)


def _stopping(visits: dict[str, dict[str, Any]]) -> Iterator[Finding]:
    """How long the head gives a job to save, if it takes jobs."""
    for visit in (visit for visit in visits.values() if visit.get("mode")):
        found = hurry(visit.get("stop_wait"))
        yield warning("ray job stop", found, MORE_TIME) if found else ok("ray job stop", "leaves time to save")


def _shared(visits: dict[str, dict[str, Any]], folder: Path, word: str) -> Finding:
    """Whether the nodes read and wrote the files of the probe."""
    wrong = []
    for node_id, visit in visits.items():
        written = folder / node_id
        if "host" not in visit:
            wrong.append(f"{visit['name']} {visit['fault']}")
        elif "error" in visit or visit["read"] != word:
            wrong.append(f"{visit['host']} cannot use it ({visit.get('error', 'another file there')})")
        elif not written.exists() or written.read_text() != word:
            wrong.append(f"files written by {visit['host']} are not visible here")
    if wrong:
        return failure("shared storage", f"{folder.parent}: {', '.join(wrong)}", OTHER_FOLDER)
    return ok("shared storage", f"{folder.parent} is read and written by every node")
