"""What `volo doctor` says of a cluster and of what a job would upload to it."""

import subprocess
import sys
import zipfile

import pytest
from ray._private.runtime_env.packaging import create_package

from tests.cli.test_doctor import table
from tests.cluster.conftest import ROOT
from tests.limits import LIMIT_S
from volo.cluster.doctor import _reachable, _shared, _size, clusters_here
from volo.cluster.upload import ALWAYS_EXCLUDED, upload_size
from volo.settings.run import RunSettings


@pytest.mark.ray
def test_a_cluster_is_looked_at_from_its_nodes(head, tmp_path):
    command = [sys.executable, "-m", "jobs.doctor", "--recipe", "quickstart", "--address", head.address]
    command += ["--output-dir", str(tmp_path / "outputs")]
    done = subprocess.run(command, cwd=ROOT, env=head.env, capture_output=True, text=True, timeout=LIMIT_S)
    assert done.returncode == 0, done.stdout + done.stderr
    found = table(done.stdout)
    assert found["cluster"] == ("ok", "1 node, 3 cores, 0 GPUs")
    dashboard = head.dashboard.removeprefix("http://")
    assert found["dashboard"] == ("ok", f"{dashboard} answers, on the head's loopback only")
    assert found["authentication"][0] == "warning"
    assert found["ray job stop"][0] == "warning"
    assert "kills after 3 s, which may be too short to save; start the head with RAY_JOB" in found["ray job stop"][1]
    assert found["node versions"][0] == found["clocks"][0] == "ok"
    assert found["network"] == ("ok", "workers on one node sum over gloo: 127.0.0.1 at lo")
    assert found["shared storage"] == ("ok", f"{tmp_path} is read and written by every node")
    assert list(tmp_path.iterdir()) == [], "something was left behind"
    assert head.address in clusters_here()


@pytest.mark.parametrize(
    ("num_workers", "status"), [(None, "ok"), (2, "ok"), (3, "warning"), ("2:8", "ok"), ("3:8", "warning")]
)
def test_fewer_cores_than_workers_are_a_warning(num_workers, status):
    run = RunSettings(num_workers=num_workers)
    assert _size(run, num_nodes=1, resources={"CPU": 2.0}).status == status


@pytest.mark.parametrize(
    ("visit", "expected"),
    [
        ({"address": "127.0.0.1", "mode": "token", "is_open": True}, {"dashboard": "ok", "authentication": "ok"}),
        ({"address": "127.0.0.1", "mode": "disabled", "is_open": False}, {"authentication": "warning"}),
        ({"address": "127.0.0.1", "mode": "disabled", "is_open": True}, {"authentication": "failure"}),
        ({"address": "10.0.0.1", "mode": "disabled", "is_open": False}, {"authentication": "failure"}),
        ({"address": "10.0.0.1"}, {"dashboard": "warning"}),
    ],
)
def test_a_cluster_that_others_can_use_is_a_failure(visit, expected):
    found = {finding.check: finding.status for finding in _reachable({"node": visit}, "127.0.0.1:8265")}
    assert expected.items() <= found.items()


def test_a_node_that_does_not_share_the_storage_is_named(tmp_path):
    (tmp_path / "here").write_text("word")
    good = {"address": "10.0.0.1", "name": "10.0.0.1", "host": "one", "read": "word"}
    assert _shared({"here": good}, tmp_path, "word").status == "ok"
    for bad, said in (
        ({"address": "10.0.0.2", "name": "10.0.0.2", "fault": "did not answer within 8 s"}, "10.0.0.2 did not answer"),
        ({"address": "10.0.0.2", "host": "two", "error": "No such file or directory"}, "two cannot use it (No such"),
        ({"address": "10.0.0.2", "host": "two", "read": "other"}, "two cannot use it (another file there)"),
        ({"address": "10.0.0.2", "host": "two", "read": "word"}, "files written by two are not visible here"),
    ):
        found = _shared({"here": good, "there": bad}, tmp_path, "word")
        assert found.status == "failure"
        assert said in found.found


def test_the_upload_is_what_ray_packs(tmp_path):
    """Against the function by which Ray packs, whose name is private and may change with its version."""
    root = tmp_path / "project"
    names = (
        "a.py",
        "kept/b.py",
        "kept/skipped.bin",
        "out/c",
        ".git/d",
        "data.bin",
        "e/.venv/f",
        "kept/out/g",
        "h/venv",
    )
    for name in (*names, "h/venv", "kept/__pycache__/i", "logs/j.txt", "logs/keep.txt", "k/temporary/l", "k/m~"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name * 100)
    (root / ".gitignore").write_text("/out/\n# a comment\n\nlogs/*\n!logs/keep.txt\n**/temporary/\n*~\n")
    (root / ".rayignore").write_text("data.bin\n")
    (root / "kept" / ".gitignore").write_text("*.bin\n")
    create_package(str(root), tmp_path / "sent.zip", include_gitignore=True, excludes=ALWAYS_EXCLUDED.split(","))
    entries = [entry for entry in zipfile.ZipFile(tmp_path / "sent.zip").infolist() if not entry.is_dir()]
    assert upload_size(root) == (sum(entry.compress_size for entry in entries), len(entries), True)
    assert {entry.filename for entry in entries} >= {"a.py", "kept/b.py"}
    assert upload_size(root, limit=300)[2] is False
    assert upload_size(root, max_files=2)[1:] == (2, False)


@pytest.mark.parametrize("ignores", ["0", "1"])
def test_the_upload_heeds_gitignore_where_ray_does(tmp_path, monkeypatch, ignores):
    """RAY_RUNTIME_ENV_IGNORE_GITIGNORE=1 has `ray job submit` send what .gitignore names too."""
    monkeypatch.setenv("RAY_RUNTIME_ENV_IGNORE_GITIGNORE", ignores)
    (tmp_path / "data.bin").write_bytes(b"x" * 1000)
    (tmp_path / ".gitignore").write_text("*.bin\n")
    size, num_files, _ = upload_size(tmp_path)
    assert (size >= 1000, num_files) == ((True, 2) if ignores == "1" else (False, 1))
