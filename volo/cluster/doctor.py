"""What `volo doctor` checks of a Ray cluster: that it answers, who could reach it, whether its nodes share a disk.

One small task per node does the checks there.
"""

import contextlib
import json
import os
import secrets
import socket
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from volo.cluster.access import HOW_TO_MAKE, check_token_file, token_file, user_can_enter
from volo.cluster.connect import OWN_CLUSTER, check_access, connected, resolved_address
from volo.cluster.folder import find_base
from volo.data.decoded.cache import Room
from volo.doctor.cache import cache_room, judged
from volo.doctor.findings import Finding, failure, ok, warning
from volo.errors import InputError
from volo.files import existing
from volo.hosts import is_loopback
from volo.settings.buckets import is_in_bucket
from volo.settings.data import ResolvedData
from volo.settings.ray_job import MORE_TIME, STOP_WAIT, hurry
from volo.settings.run import ResolvedRun, RunSettings
from volo.storage.bucket import check_bucket

HEAD = "node:__internal_head__"  # a resource that only the head has
ANSWER_S = 3.0
TASKS_S = 8.0
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


def check_cluster(run: ResolvedRun, data: ResolvedData) -> Iterator[Finding]:
    """Connects to the existing cluster, and checks it from each of its nodes.

    Raises:
        InputError: as `connected`.
    """
    import ray

    with connected(run.address) as dashboard:
        nodes = [node for node in ray.nodes() if node["Alive"]]
        yield _size(run, len(nodes), ray.cluster_resources())
        if is_in_bucket(run.output_dir):
            visits = _visits(nodes, None, "", dashboard)
            yield from _reachable(visits, dashboard)
            yield from _stopping(visits)
            yield _storage(nodes, run.output_dir)
        else:
            yield from _with_disk(nodes, Path(run.output_dir), dashboard)
        yield _caches(nodes, data)


def _with_disk(nodes: list[dict[str, Any]], output_dir: Path, dashboard: str | None) -> Iterator[Finding]:
    """What the nodes report, and whether they share the output folder."""
    try:
        with _probe(output_dir) as (folder, word):
            visits = _visits(nodes, folder, word, dashboard)
            yield from _reachable(visits, dashboard)
            yield from _stopping(visits)
            yield _shared(visits, folder, word)
    except OSError as error:
        yield failure("shared storage", f"{error.filename} cannot be used ({error.strerror})", OTHER_FOLDER)


def _storage(nodes: list[dict[str, Any]], url: str) -> Finding:
    """Whether every node can use the place on object storage."""
    answers = _asked(nodes, bucket_of, lambda node: (url,))
    wrong = [
        f"{node['NodeManagerAddress']}: {found}"
        for node in nodes
        if (found := answers.get(node["NodeID"], f"no answer within {TASKS_S:g} s"))
    ]
    if wrong:
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


def _visits(
    nodes: list[dict[str, Any]], folder: Path | None, word: str, dashboard: str | None
) -> dict[str, dict[str, Any]]:
    """What a task on each node reports, by node identifier; only the address if it does not answer in TASKS_S."""

    def arguments(node: dict[str, Any]) -> tuple:
        return folder and str(folder), node["NodeID"], dashboard if HEAD in node["Resources"] else None

    reports = _asked(nodes, visit, arguments)
    return {
        node["NodeID"]: {"address": node["NodeManagerAddress"], **reports.get(node["NodeID"], {})} for node in nodes
    }


def _asked(
    nodes: list[dict[str, Any]], function: Callable, arguments: Callable[[dict[str, Any]], tuple]
) -> dict[str, Any]:
    """What a function returns on each node, by node identifier, without nodes that do not answer in TASKS_S."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    task = ray.remote(num_cpus=0, max_retries=0)(function)
    asked = {}
    for node in nodes:
        strategy = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        asked[task.options(scheduling_strategy=strategy).remote(*arguments(node))] = node["NodeID"]
    done, _ = ray.wait(list(asked), num_returns=len(asked), timeout=TASKS_S)
    answers = {}
    for ref in done:
        with contextlib.suppress(ray.exceptions.RayError):
            answers[asked[ref]] = ray.get(ref)
    return answers


def _caches(nodes: list[dict[str, Any]], data: ResolvedData) -> Finding:
    """The room for decoded images on each node, as each reports from its own disk and its own copy of the data."""
    rooms, wrong = {}, []
    answers = _asked(nodes, cache_of, lambda node: (data.model_dump(),))
    for node in nodes:
        answer = answers.get(node["NodeID"])
        if isinstance(answer, Room):
            rooms[node["NodeManagerAddress"]] = answer
        else:
            wrong.append(f"{node['NodeManagerAddress']} {answer or f'did not answer within {TASKS_S:g} s'}")
    if wrong:
        return failure("caches", "; ".join(wrong), "make data and cache the same on all nodes")
    address, tightest = min(rooms.items(), key=lambda item: item[1].free - item[1].needed)
    finding = judged(tightest)
    return replace(finding, check="caches", found=f"fullest of {len(rooms)}, on {address}: {finding.found}")


def cache_of(data: dict[str, Any]) -> Room | str:
    """On a node: the room that its cache needs, or why training would be refused there."""
    try:
        return cache_room(ResolvedData(**data))
    except InputError as error:
        return str(error)


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
            wrong.append(f"{visit['address']} did not answer within {TASKS_S:g} s")
        elif "error" in visit or visit["read"] != word:
            wrong.append(f"{visit['host']} cannot use it ({visit.get('error', 'another file there')})")
        elif not written.exists() or written.read_text() != word:
            wrong.append(f"files written by {visit['host']} are not visible here")
    if wrong:
        return failure("shared storage", f"{folder.parent}: {', '.join(wrong)}", OTHER_FOLDER)
    return ok("shared storage", f"{folder.parent} is read and written by every node")
