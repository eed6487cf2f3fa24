"""Row 7, between whole jobs; what fetching refuses, and four processes at once, are in tests/data/archives."""

import pytest

from tests.data.archives.served import cifar100_files, md5, packed, served
from tests.faults.forked import Command
from tests.training.runs import same, small_run, weights
from volo.data.archives.fetch import MIRROR


@pytest.fixture
def server():
    with served() as running:
        yield running


def jobs(tmp_path, *names: str) -> list[Command]:
    """Runs on one data directory that is empty yet."""
    data = dict(dataset="cifar100", data_dir=str(tmp_path / "data"))
    return [Command.of(small_run(tmp_path, tmp_path, data=data, optim=dict(epochs=1), run=dict(run_name=name)))
            for name in names]  # fmt: skip


def test_two_jobs_at_once_fetch_once_and_both_train(tmp_path, server):
    content, archive = packed(cifar100_files())
    mirror = {MIRROR: f"{server.serve(archive.file, content)}#md5={md5(content)}"}
    commands = jobs(tmp_path, "one", "other")
    started = [command.start(**mirror, VOLO_CACHE_DIR=str(tmp_path / "cache")) for command in commands]
    assert [job.ends_with() for job in started] == [0, 0], [job.said() for job in started]
    assert server.requests == [f"/{archive.file}"]
    assert same(*(weights(command.run_dir) for command in commands))


@pytest.mark.parametrize("harm", ["wrong checksum", "cut short"])
def test_two_jobs_at_once_refuse_what_is_not_the_archive_and_leave_nothing(tmp_path, server, harm):
    content, archive = packed(cifar100_files())
    expected, announced = ("0" * 32, None) if harm == "wrong checksum" else (md5(content), len(content))
    sent = content if harm == "wrong checksum" else content[:1000]
    mirror = {MIRROR: f"{server.serve(archive.file, sent, announced=announced)}#md5={expected}"}
    started = [command.start(**mirror) for command in jobs(tmp_path, "one", "other")]
    assert [job.ends_with() for job in started] == [2, 2], [job.said() for job in started]
    for job in started:
        assert f"{archive.file} with md5 {expected} is needed" in job.said()
        found = f"got md5 {md5(content)}" if harm == "wrong checksum" else f"stopped after 1,000 of {len(content):,}"
        assert found in job.said()
    assert [path.name for path in (tmp_path / "data").iterdir() if path.suffix != ".lock"] == []
    assert not list(tmp_path.rglob("step_*"))
