"""One Ray head for the session: its own folder, ports on loopback, no token on purpose."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.ports import free_ports

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Head:
    """Where a Ray head answers: drivers at `address`, `ray job submit` at `dashboard`. All its processes are of one
    session."""

    address: str
    dashboard: str
    session: int
    env: dict[str, str]


def end_session(process: subprocess.Popen) -> None:
    """Ends a process started with start_new_session and all that it started; nothing of it is needed any more."""
    for pid in (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()):
        with contextlib.suppress(ProcessLookupError):
            if os.getsid(pid) == process.pid:
                os.kill(pid, signal.SIGKILL)
    process.wait(timeout=60)


@pytest.fixture(scope="session")
def ray_env() -> dict[str, str]:
    return own_environment()


def own_environment() -> dict[str, str]:
    """Of every process that has to do with Ray in these tests."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    path = f"{Path(sys.executable).parent}{os.pathsep}{env['PATH']}"
    return env | {"RAY_AUTH_MODE": "disabled", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "PATH": path}


def autoscaling(address: str, num_cpus: int, worker: dict[str, int]) -> dict:
    """The configuration of Ray's autoscaler for a head that two nodes may join, as processes on this machine."""
    nothing: dict = {"resources": {}, "node_config": {}}
    lists = ("initialization", "setup", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray")
    return {
        "cluster_name": "growing",
        "max_workers": 2,
        "idle_timeout_minutes": 10,
        "provider": {
            "type": "external",
            "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
            "gcs_address": address,
            "use_node_id_as_ip": True,
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
        },
        "auth": {},
        "docker": {},
        "head_node_type": "ray.head.default",
        "available_node_types": {
            "ray.head.default": nothing | {"resources": {"CPU": num_cpus}, "max_workers": 0},
            "worker": nothing | {"resources": worker | {"object_store_memory": 150 * 1024**2}, "max_workers": 2},
        },
        "file_mounts": {},
        **{f"{name}_commands": [] for name in lists},
        **{name: [] for name in ("cluster_synced_files", "rsync_exclude", "rsync_filter")},
    }


@contextlib.contextmanager
def started_head(env: dict[str, str], num_cpus: int, worker: dict[str, int] | None = None) -> Iterator[Head]:
    """A head started as a user would start it, and ended with the block.

    Args:
        env: Of all its processes.
        num_cpus: Its cores.
        worker: The resources of the nodes that Ray's autoscaler starts as they are needed; None: it starts none.
    """
    port, dashboard, agent_listen, agent_grpc, client = free_ports(5)
    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # socket paths must be short
    command = [
        str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", "--node-ip-address=127.0.0.1",
        f"--port={port}", "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}",
        f"--dashboard-agent-listen-port={agent_listen}", f"--dashboard-agent-grpc-port={agent_grpc}",
        f"--ray-client-server-port={client}", f"--temp-dir={folder}", f"--num-cpus={num_cpus}", "--num-gpus=0",
        "--disable-usage-stats", "--include-dashboard=true",
    ]  # fmt: skip
    own = {}
    if worker is not None:
        config = Path(folder) / "autoscaling.json"  # JSON is YAML
        config.write_text(json.dumps(autoscaling(f"127.0.0.1:{port}", num_cpus, worker)))
        command.append(f"--autoscaling-config={config}")
        own = {"RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1"}
    process = subprocess.Popen(
        command, env=env | own, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    try:
        said = ""
        for line in process.stdout:
            said += line
            if "--block" in line or "Ray runtime started" in line:
                break
        else:
            pytest.fail(f"the head ended before it answered; it said: {said}")
        yield Head(f"127.0.0.1:{port}", f"http://127.0.0.1:{dashboard}", process.pid, env)
    finally:
        end_session(process)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def head(ray_env):
    with started_head(ray_env, num_cpus=3) as head:
        yield head
