"""`jobs.runs`: what became of each run, told from what lies in its folder."""

import contextlib
import json
import os
import pty
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

from tests.cli.test_parse import ROOT
from tests.conftest import draw_folder
from tests.training.runs import small_run, train
from volo.cli import runs as job
from volo.cli.outcome import exit_code
from volo.runs.listing import find_runs, is_locked, read_run
from volo.runs.records import read_records


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """An outputs folder: a run stopped by --max-steps, two seeds, and folders that are no runs."""
    folder = tmp_path_factory.mktemp("runs")
    images = draw_folder(folder / "images", {"train": {"cat": 40, "dog": 40}})
    train(small_run(folder, images, optim=dict(max_steps=6)))
    train(small_run(folder, images, run=dict(run_name="group", seeds=(2, 10)), optim=dict(epochs=1)))
    (folder / "outputs" / "notes").mkdir()
    (folder / "outputs" / "notes" / "config.yaml").write_text("a: 1")
    return folder / "outputs"


@pytest.fixture
def outputs(trained, tmp_path) -> Path:
    return shutil.copytree(trained, tmp_path / "outputs")


def listed(capsys, root: Path) -> dict[str, list[str]]:
    assert exit_code(job.main, ["--output-dir", str(root)]) == 0
    lines = capsys.readouterr().out.splitlines()
    return {line.split()[0]: line.split() for line in lines}


def test_runs_are_found_at_any_depth_and_nothing_else(outputs):
    assert [str(run.relative_to(outputs)) for run in find_runs(outputs)] == ["group/seed2", "group/seed10", "run"]


def test_a_line_tells_state_best_epochs_rate_and_size(outputs, capsys):
    lines = listed(capsys, outputs)
    epochs = [record for record in read_records(outputs / "run") if record["kind"] == "epoch"]
    last = [record for record in read_records(outputs / "run") if "images_per_s" in record][-1]
    assert lines["run"][1] == "finished"
    assert lines["run"][2:5] == [f"{epochs[0]['val/acc1']:.2%}", "1", "1/3"]
    assert lines["run"][5] == f"{last['images_per_s']:,.0f}"
    size = sum(path.stat().st_size for path in (outputs / "run").rglob("*") if path.is_file())
    size /= 2 ** (10 if lines["run"][7] == "KiB" else 20)
    assert float(lines["run"][6]) == pytest.approx(size, abs=0.06 if size < 100 else 0.51)
    assert lines["group/seed10"][1:5:3] == ["finished", "1/1"]


def test_columns_are_aligned(outputs, capsys):
    exit_code(job.main, ["--output-dir", str(outputs)])
    header, *lines = capsys.readouterr().out.splitlines()
    assert {line.index("finished") for line in lines} == {header.index("state")}
    assert {len(line) for line in [header, *lines]} == {len(header)}


def test_a_run_that_is_being_trained_is_running_and_looking_does_not_disturb_it(outputs):
    run = outputs / "run"
    with FileLock(run / ".lock"):
        assert read_run(run).state == "running"
        assert is_locked(run)
    assert read_run(run).state == "finished"
    with FileLock(run / ".lock", timeout=0):
        pass


def test_a_run_whose_last_command_wanted_more_is_interrupted(outputs):
    note = {"kind": "note", "step": 6, "text": "resuming", "stop_at": 12}
    with open(outputs / "run" / "metrics.jsonl", "a") as file:
        file.write(json.dumps(note) + "\n")
    assert read_run(outputs / "run").state == "interrupted"
    (outputs / "run" / "failure.txt").write_text("TrainingError: the loss")
    assert read_run(outputs / "run").state == "failed"


def test_a_run_without_a_checkpoint_was_never_saved(outputs):
    shutil.rmtree(outputs / "run" / "checkpoints")
    run = read_run(outputs / "run")
    assert (run.state, run.scores.num_epochs) == ("never saved", 1)


@pytest.mark.parametrize("file", ["config.yaml", "metrics.jsonl", "checkpoints/step_00000006/manifest.json", ".lock"])
@pytest.mark.parametrize("content", [b"", b"\xff\xfe{", b"[1]\n3\n", None])
def test_a_damaged_or_missing_file_costs_what_it_would_have_said_and_no_more(outputs, file, content):
    path = outputs / "run" / file
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    is_told = file != ".lock" and content is not None and (content or file != "metrics.jsonl")
    with pytest.warns(UserWarning, match=file) if is_told else contextlib.nullcontext():
        run = read_run(outputs / "run")
    if file == "config.yaml":
        assert (run.of_epochs, run.scores.num_epochs) == (None, 1)
    elif file == "metrics.jsonl":
        assert (run.of_epochs, run.scores.best, run.images_per_s) == (3, None, None)
    else:
        assert (run.of_epochs, run.scores.num_epochs) == (3, 1)


def test_no_runs_is_said_and_no_folder_refused(tmp_path, capsys):
    assert exit_code(job.main, ["--output-dir", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"no runs in {tmp_path}\n"
    assert exit_code(job.main, ["--output-dir", str(tmp_path / "none")]) == 2
    assert "--output-dir must be a folder" in capsys.readouterr().err


def test_a_terminal_gets_a_table_and_torch_is_never_loaded(outputs):
    """A real terminal; the module is looked for when all is printed."""
    script = (
        "import sys\n"
        "from volo.cli.runs import main\n"
        "main(sys.argv[1:])\n"
        "print('heavy:', [name for name in ('torch', 'ray') if name in sys.modules])\n"
    )
    leader, follower = pty.openpty()
    command = [sys.executable, "-c", script, "--output-dir", str(outputs)]
    done = subprocess.run(command, cwd=ROOT, stdout=follower, stderr=subprocess.PIPE)
    assert done.returncode == 0, done.stderr
    printed = b""
    while b"heavy: []" not in printed:
        printed += (chunk := os.read(leader, 4096))
        assert chunk
    assert "┃" in printed.decode()
    assert "group/seed10" in printed.decode()
