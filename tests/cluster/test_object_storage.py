"""Nodes that share no disk: each has a cache of its own, and the run is kept on object storage."""

import contextlib
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.cluster.conftest import ROOT, end_session, own_environment, started_head
from tests.cluster.processes import started
from tests.cluster.test_kills import two_ranks
from tests.faults.test_05_nodes import node_of
from tests.faults.tools.runs import assert_same, begun_at, draw_images
from tests.limits import LIMIT_S
from tests.storage.conftest import s3 as s3
from tests.storage.conftest import server as server
from tests.storage.copies import checkpoints, machine, seen
from tests.storage.server import DROP, during
from tests.training.runs import same, weights
from volo.cli import analyze, compare, export, predict, runs
from volo.cli.outcome import exit_code
from volo.data.packed.packing import pack
from volo.errors import ExitCode
from volo.storage.bucket import Bucket

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def test_two_nodes_train_with_nothing_in_common_but_a_bucket_lose_a_node_and_a_driver_and_reach_the_same_weights(
    s3, tmp_path, monkeypatch
):
    """The data are in the bucket as well. Two ranks of torchrun, on a disk, are the undisturbed run."""
    images = draw_images(tmp_path / "data")
    undisturbed = two_ranks(tmp_path / "undisturbed", images)
    undisturbed.finish(num_ranks=2)

    bucket = s3.new_bucket()
    pack(images, tmp_path / "packed", 20_000)
    for path in (tmp_path / "packed").iterdir():
        Bucket(f"{bucket}/photos").write(path.name, path)
    command = two_ranks(tmp_path / "there", images)
    values = json.loads(command.config.read_text())
    values["run"] |= {"output_dir": f"{bucket}/runs", "checkpoint_every": 5, "num_workers": 2}
    values["data"] |= {"data_dir": f"{bucket}/photos"}
    config = tmp_path / "run.json"
    config.write_text(json.dumps(values))
    settings = command.settings.model_copy(
        update={"run": command.settings.run.model_copy(update={"output_dir": f"{bucket}/runs"})}
    )

    env = own_environment() | s3.env
    with contextlib.ExitStack() as stack:
        head = stack.enter_context(started_head(env | machine(tmp_path, "head"), num_cpus=1))
        other = stack.enter_context(node_of(replace(head, env=env | machine(tmp_path, "other"))))
        asked = [sys.executable, "-m", "jobs.train", "--config", str(config), "--address", head.address]
        drives = env | machine(tmp_path, "head")

        with started(asked, drives, tmp_path / "first") as training:
            training.until(lambda: max(checkpoints(settings), default=0) >= 10, "a checkpoint of step 10")
            end_session(other)
            stack.enter_context(node_of(replace(head, env=env | machine(tmp_path, "third"))))
            training.until(lambda: "resuming at step" in training.output.read_text(), "a new start")
            training.process.kill()
            training.process.wait()
        step = max(checkpoints(settings))
        with started(asked, env | machine(tmp_path, "another driver"), tmp_path / "second") as training:
            training.until(lambda: "resuming at step" in training.output.read_text(), "a start")
            s3.proxy.fault = during(30, DROP)
            assert training.process.wait(2 * LIMIT_S) == 0, training.output.read_text()
        assert begun_at(training.output.read_text()) >= step
        examined = subprocess.run(
            [sys.executable, "-m", "volo", "doctor", "--config", str(config), "--address", head.address],
            env=drives, cwd=ROOT, capture_output=True, text=True,
        )  # fmt: skip
        assert examined.returncode in (ExitCode.DONE, ExitCode.UNHEALTHY), examined.stderr
        assert f"{bucket}/runs is read and written by every node" in examined.stdout, examined.stderr

    monkeypatch.setenv("VOLO_CACHE_DIR", machine(tmp_path, "laptop")["VOLO_CACHE_DIR"])
    assert_same(seen(settings), undisturbed.run_dir)


def test_nodes_at_one_address_that_have_nothing_yet_bring_the_run_each(s3, tmp_path, monkeypatch):
    """Whichever of them has rank 0: both caches are removed before the run goes on."""
    command = two_ranks(tmp_path / "there", draw_images(tmp_path / "data"))
    values = json.loads(command.config.read_text())
    values["run"] |= {"output_dir": f"{s3.new_bucket()}/runs", "num_workers": 2}
    config = tmp_path / "run.json"
    config.write_text(json.dumps(values))
    env = own_environment() | s3.env
    caches = [machine(tmp_path, name) for name in ("head", "other", "driver")]
    with (
        started_head(env | caches[0], num_cpus=1) as head,
        node_of(replace(head, env=env | caches[1])),
    ):
        for steps in ("8", "16"):
            asked = ["--config", str(config), "--address", head.address, "--max-steps", steps]
            done = subprocess.run(
                [sys.executable, "-m", "jobs.train", *asked],
                env=env | caches[2], cwd=ROOT, capture_output=True, text=True,
            )  # fmt: skip
            assert done.returncode == 0, done.stdout + done.stderr
            for cache in caches:
                copies = Path(cache["VOLO_CACHE_DIR"], "runs")
                assert copies.is_dir()
                shutil.rmtree(copies)
    assert "resuming at step 8 of" in done.stdout


def test_every_command_that_reads_a_run_reads_it_there(s3, tmp_path, monkeypatch, capsys):
    from tests.storage.copies import stored_run
    from volo.training.launch import train_here

    images = draw_images(tmp_path / "data")
    settings = stored_run(f"{s3.new_bucket()}/runs", tmp_path, images)
    train_here(settings)
    monkeypatch.setenv("VOLO_CACHE_DIR", machine(tmp_path, "laptop")["VOLO_CACHE_DIR"])
    monkeypatch.chdir(tmp_path)
    here = ["--num-workers", "0"]
    assert exit_code(analyze.main, ["--checkpoint", settings.home, *here]) == 0
    said = capsys.readouterr().out
    assert f"kept at: {settings.home}/analysis" in said
    kept = Bucket(f"{settings.home}/analysis").names()
    assert {"analysis.json", "report.html", "eval_metrics.json"} <= {*kept} and ".analysis.lock" not in kept
    monkeypatch.setenv("VOLO_CACHE_DIR", machine(tmp_path, "another")["VOLO_CACHE_DIR"])
    assert exit_code(analyze.main, ["--checkpoint", settings.home, *here]) == 0
    said = capsys.readouterr().out
    assert "this analysis is finished" in said and f"kept at: {settings.home}/analysis" in said
    report = Bucket(f"{settings.home}/analysis").read("report.html")[0].decode()
    assert f"{settings.home}/checkpoints/step_" in report and str(tmp_path / "machines") not in report

    photos, table = str(images / "test"), "predictions.csv"
    flags = ["--checkpoint", f"{settings.home}/last", "--input", photos, "--output", table, *here]
    assert exit_code(predict.main, flags) == 0 and Path(table).exists()
    assert exit_code(export.main, ["--checkpoint", settings.home, "--output", "model.pt2"]) == 0
    with pytest.raises(SystemExit) as ended:
        compare.main([settings.home, settings.home])
    assert ended.value.code == 0
    capsys.readouterr()
    assert exit_code(runs.main, ["--output-dir", settings.run.output_dir]) == 0
    assert capsys.readouterr().out.splitlines()[-1].split()[:2] == ["run", "finished"]
    assert exit_code(runs.main, ["--fetch", settings.home, "--output-dir", "outputs"]) == 0
    assert same(weights(Path("outputs/run")), weights(seen(settings)))
    assert exit_code(runs.main, ["--output-dir", "outputs"]) == 0
    assert exit_code(runs.main, ["--fetch", f"{settings.home}-none", "--output-dir", "outputs"]) == 2
    assert exit_code(runs.main, ["--fetch", "outputs/run"]) == 2
