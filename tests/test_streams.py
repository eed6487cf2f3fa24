"""A closed pipe, a terminal that is gone or a full disk behind standard output ends the output, not the command."""

import contextlib
import os
import pty
import signal
import socket
import subprocess
import sys
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from tests.cluster.conftest import end_session, own_environment
from tests.conftest import draw_folder
from tests.faults.tools.forked import FORKS, ended
from tests.faults.tools.kills import Countdown, before
from tests.faults.tools.processes import ROOT, written
from tests.faults.tools.runs import command, newest_step
from tests.limits import LIMIT_S
from tests.models import save_model
from tests.ports import free_ports
from volo.cli.outcome import run_job
from volo.training.learner import Learner

NAMES = ("cat", "dog")
NUM_STEPS = 12  # of the small run
# What a command prints while no file is made, and its exit code.
PRINTERS = {
    "": 0,
    "--version": 0,
    "nothing": 2,
    "recipes": 0,
    "spaces": 0,
    "completion bash": 0,
    "train --help": 0,
    "train --help-all": 0,
    "train --recipe quickstart --print-config": 0,
    "train --no-such-flag": 2,
    "tune --space mix --help": 0,
    "runs": 0,
    "runs --output-dir none": 2,
}
WORK = ("train", "analyze", "predict", "export", "compare", "doctor")


def reader_left(kind: str) -> int:
    """A file to write to whose reader has been there and is not any more."""
    match kind:
        case "pipe":
            reader, writer = os.pipe()
        case "terminal":
            reader, writer = pty.openpty()
        case "socket":
            ends = socket.socketpair()
            reader, writer = (end.detach() for end in ends)
    os.close(reader)
    return writer


@contextlib.contextmanager
def started(argv: list[str], tmp_path: Path, stdout: int, stderr: int = subprocess.PIPE, **environment: str):
    """A command of a checkout in a folder of its own."""
    (tmp_path / "outputs").mkdir(exist_ok=True)
    env = own_environment() | {"PYTHONPATH": str(ROOT), **environment}
    with subprocess.Popen(
        [sys.executable, *argv], cwd=tmp_path, env=env, stdout=stdout, stderr=stderr, text=True, start_new_session=True
    ) as process:
        try:
            yield process
        finally:
            end_session(process)


def results(processes: dict[str, subprocess.Popen]) -> dict[str, tuple[int, str]]:
    """Exit code and errors of each."""
    return {name: (process.wait(LIMIT_S), process.stderr.read()) for name, process in processes.items()}


def of_all(printers: list[str], tmp_path: Path, stdout: int) -> dict[str, tuple[int, str]]:
    with contextlib.ExitStack() as stack:
        processes = {
            words: stack.enter_context(started(["-m", "volo", *words.split()], tmp_path, stdout)) for words in printers
        }
        return results(processes)


def test_a_command_whose_reader_has_left_says_nothing_of_it_and_ends_with_its_own_code(tmp_path):
    found = of_all(list(PRINTERS), tmp_path, reader_left("pipe"))
    assert {words: code for words, (code, _) in found.items()} == PRINTERS
    assert {words: said for words, (code, said) in found.items() if code == 0 and said} == {}
    assert not [said for _, said in found.values() if "Traceback" in said or "Exception ignored" in said]


@pytest.mark.parametrize("how", ["a terminal", "a socket", "unbuffered", "a module of jobs", "errors too", "no file"])
def test_it_is_the_same_however_the_output_is_lost(tmp_path, how):
    argv, stdout, stderr, environment = ["-m", "volo", "recipes"], reader_left("pipe"), subprocess.PIPE, {}
    match how:
        case "a terminal" | "a socket":
            stdout = reader_left(how.split()[1])
        case "unbuffered":
            environment["PYTHONUNBUFFERED"] = "1"
        case "a module of jobs":
            argv = ["-m", "jobs.runs"]
        case "errors too":
            stderr = stdout
        case "no file":
            argv = ["-c", f"import os, sys; os.close(1); os.execv(sys.executable, [sys.executable, *{argv}])"]
    with started(argv, tmp_path, stdout, stderr, **environment) as process:
        assert process.wait(LIMIT_S) == 0
        assert process.stderr is None or process.stderr.read() == ""


def test_a_disk_that_is_too_full_for_the_output_is_named_and_changes_success_to_code_3(tmp_path):
    printers = ["", "recipes", "train --recipe quickstart --print-config", "train --help", "runs --output-dir none"]
    with open("/dev/full", "w") as full:
        found = of_all(printers, tmp_path, full.fileno())
    assert [code for code, _ in found.values()] == [3, 3, 3, 3, 2]
    assert all("could be written (No space left on device)" in said for code, said in found.values() if code == 3)
    assert not [said for _, said in found.values() if "Traceback" in said or "Exception ignored" in said]


def run_without_reader(main: str, argv: list[str], reader: Connection | None, log: Path, interrupted_at: int) -> None:
    """A command as a shell starts it, its output a pipe (None: a full disk), its errors in a file."""
    with open(log, "w") as errors, open("/dev/full", "w") as full:
        os.dup2((reader or full).fileno(), 1)
        os.dup2(errors.fileno(), 2)
    if reader:
        reader.close()
    sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
    if interrupted_at:
        interrupt = Countdown(interrupted_at, lambda: os.kill(os.getpid(), signal.SIGINT))
        before(Learner, "update")(interrupt, log)
    run_job(f"volo.cli.{main}", argv)


def code_without_reader(
    main: str, argv: list[str], tmp_path: Path, interrupted_at: int = 0, is_full: bool = False
) -> tuple[int, str]:
    """Exit code and errors of a command whose reader leaves before the first word."""
    ours, theirs = FORKS.Pipe(duplex=False)
    log = tmp_path / "errors.log"
    process = FORKS.Process(
        target=run_without_reader, args=(main, argv, None if is_full else theirs, log, interrupted_at)
    )
    process.start()
    theirs.close()
    ours.close()
    return ended(process, log.read_text), log.read_text()


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    return draw_folder(
        tmp_path_factory.mktemp("streams") / "images",
        {"train": dict.fromkeys(NAMES, 40), "test": dict.fromkeys(NAMES, 4)},
    )


@pytest.mark.parametrize("name", WORK)
def test_work_is_done_to_its_end_without_a_reader(tmp_path, images, name):
    job, model = command(tmp_path, images, 3), save_model(tmp_path / "model", NAMES, data_dir=str(images))
    here = ["--num-workers", "0"]
    argv, result = {
        "train": (["--config", str(job.config)], job.run_dir / "last"),
        "analyze": (["--checkpoint", str(model), "--output-dir", str(tmp_path / "a"), "--analysis", "eval", *here],
                    tmp_path / "a" / "report.html"),
        "predict": (["--checkpoint", str(model), "--input", str(images / "test"), "--output", f"{tmp_path}/a.csv",
                     *here], tmp_path / "a.csv"),
        "export": (["--checkpoint", str(model), "--output", f"{tmp_path}/a.pt2"], tmp_path / "a.pt2"),
        "compare": ([str(tmp_path / "model"), str(tmp_path / "model")], tmp_path / "model"),
        "doctor": (["--config", str(job.config)], job.config),
    }[name]  # fmt: skip
    code, said = code_without_reader(name, argv, tmp_path)
    assert (code, "Traceback" in said, "Broken pipe" in said) == (0, False, False), said
    assert result.exists()
    assert name != "train" or newest_step(job.run_dir) == NUM_STEPS


def test_ctrl_c_that_ends_the_reader_first_still_saves(tmp_path, images):
    """As `volo train | tee log` does: the terminal interrupts both."""
    job = command(tmp_path, images, 3)
    code, said = code_without_reader("train", ["--config", str(job.config)], tmp_path, interrupted_at=5)
    assert code == 130, said
    assert newest_step(job.run_dir) == 5


def test_a_training_whose_log_fills_the_disk_trains_to_its_end_and_says_what_is_missing(tmp_path, images):
    job = command(tmp_path, images, 3)
    code, said = code_without_reader("train", ["--config", str(job.config)], tmp_path, is_full=True)
    assert code == 3 and "not all output could be written (No space left on device)" in said
    assert newest_step(job.run_dir) == NUM_STEPS


@pytest.mark.slow
def test_ranks_of_torchrun_train_to_the_end_without_a_reader(tmp_path, images):
    job, lost = command(tmp_path, images, 3), reader_left("pipe")
    elastic = ["-m", "torch.distributed.run", "--nproc_per_node=2", f"--master_port={free_ports(1)[0]}"]
    argv = [*elastic, "-m", "volo", "train", *written(job.settings, tmp_path)]
    with started(argv, tmp_path, lost, lost) as process:
        assert process.wait(LIMIT_S) == 0
    assert newest_step(job.run_dir) == NUM_STEPS


@pytest.mark.slow
@pytest.mark.ray
def test_ray_trains_and_analyzes_to_the_end_without_a_reader(tmp_path, images):
    job, lost = command(tmp_path, images, 3), reader_left("pipe")
    argv = ["-m", "volo", "pipeline", *written(job.settings, tmp_path), "--num-workers", "2", "--no-show"]
    with started(argv, tmp_path, lost, lost) as process:
        assert process.wait(LIMIT_S) == 0
    assert newest_step(job.run_dir) == NUM_STEPS
    assert (job.run_dir / "analysis" / "report.html").exists()


@pytest.mark.slow
@pytest.mark.ray
def test_a_sweep_runs_to_the_end_without_a_reader(tmp_path, images):
    job, lost = command(tmp_path, images, 1), reader_left("pipe")
    sweep = ["--space", "mix", "--num-samples", "2", "--sweep-name", "sweep"]
    with started(["-m", "volo", "tune", *written(job.settings, tmp_path), *sweep], tmp_path, lost, lost) as process:
        assert process.wait(LIMIT_S) == 0
    assert (job.run_dir.parent / "sweep" / "sweep_report.html").exists()
