"""Row 9: the control plane is for this machine alone, and there for who has the token."""

import contextlib
import ipaddress
import os
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.conftest import ROOT, end_session
from tests.faults.tools.listeners import beyond_loopback, commands_of, listening
from tests.limits import LIMIT_S
from volo.cli import pipeline, train
from volo.cli.outcome import exit_code

# As jobs.train does: Ray is told what to do before the trainer imports it.
START = (
    "import sys\n"
    "from volo.cluster.connect import prepare\n"
    "prepare(None)\n"
    "from volo.cluster.trainer import connected\n"
    "with connected(None, num_cpus=1) as dashboard:\n"
    "    print('ready', dashboard, flush=True)\n"
    "    sys.stdin.read()\n"
)


def bare_environment() -> dict[str, str]:
    """Without anything that these tests or a user have told Ray."""
    return {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}


@contextlib.contextmanager
def own_cluster(home: Path, token: dict[str, str]) -> Iterator[tuple[str, int]]:
    """A cluster as a job starts one for itself: its dashboard, or None, and the process that started it."""
    process = subprocess.Popen(
        [sys.executable, "-c", START], cwd=ROOT, env=bare_environment() | {"HOME": str(home)} | token, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    limit = threading.Timer(LIMIT_S, process.kill)
    limit.start()
    try:
        for line in process.stdout:
            if line.startswith("ready"):
                yield line.split()[1], process.pid
                return
        pytest.fail("the cluster ended before it was ready")
    finally:
        limit.cancel()
        end_session(process)


def status(url: str) -> int:
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=LIMIT_S) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


@pytest.mark.ray
@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="reads what listens from Linux's /proc")
@pytest.mark.parametrize(
    "token",
    [
        pytest.param({}, id="its own", marks=pytest.mark.slow),
        pytest.param({"RAY_AUTH_TOKEN": "0" * 64}, id="the user's"),
    ],
)
def test_what_a_job_starts_listens_on_loopback_alone_and_wants_a_token(tmp_path, token):
    """A dashboard whose token nobody has is not started."""
    with own_cluster(tmp_path, token) as (dashboard, pid):
        commands = list(commands_of(pid))
        assert any("raylet" in command for command in commands)
        assert beyond_loopback(pid) == []
        ports = {port for ports in listening(pid).values() for port in ports}
        assert len(ports) > 5, "the processes of the cluster were not seen"
        if token:
            assert int(dashboard.rpartition(":")[2]) in ports
            assert status(f"http://{dashboard}/api/jobs/") == 401
        else:
            assert dashboard == "None"
    assert not (tmp_path / ".ray").exists(), "a token was written to disk"


def test_the_table_of_sockets_is_read_right():
    with socket.create_server(("127.0.0.1", 0)) as near, socket.create_server(("127.0.0.2", 0)) as far:
        found = listening(os.getpid())
        for server in (near, far):
            host, port = server.getsockname()
            assert port in found[ipaddress.ip_address(host)]


@pytest.mark.parametrize("job", [train, pipeline])
@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({}, "must ask for a token, since it takes jobs, got dashboard_host=0.0.0.0 with none in $RAY_AUTH_TOKEN"),
        ({"RAY_AUTH_MODE": "disabled", "RAY_AUTH_TOKEN": "secret"}, "with RAY_AUTH_MODE=disabled; unset RAY_AUTH_MODE"),
        ({"RAY_ADDRESS": "127.0.0.1:1"}, "dashboard_host has no effect on an existing cluster"),
    ],
)
def test_a_dashboard_for_others_without_a_token_is_refused_before_anything_starts(
    tmp_path, monkeypatch, capsys, job, environment, said
):
    for name in [name for name in os.environ if name.startswith("RAY_")]:
        monkeypatch.delenv(name)
    for name, value in {"HOME": str(tmp_path), **environment}.items():
        monkeypatch.setenv(name, value)
    flags = ["--recipe", "quickstart", "--dashboard-host", "0.0.0.0", "--output-dir", str(tmp_path / "outputs")]
    assert exit_code(job.main, flags) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "outputs").exists()


def test_a_token_that_others_can_read_is_refused_before_anything_starts(tmp_path, monkeypatch, capsys):
    token = tmp_path / "token"
    token.write_text("secret")
    token.chmod(0o644)
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(token))
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    flags = ["--recipe", "quickstart", "--address", "127.0.0.1:1", "--output-dir", str(tmp_path / "outputs")]
    assert exit_code(train.main, flags) == 2
    assert f"got {token} with mode 0644; chmod 600 {token}" in capsys.readouterr().err
    assert not (tmp_path / "outputs").exists()
