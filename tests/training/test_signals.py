"""A training process that is told to stop, or killed, in its midst."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.training.runs import losses, same, small_run, train, weights
from volo.cli import train as train_job
from volo.cli.parse import exit_code
from volo.runs import checkpoint

ROOT = Path(__file__).parents[2]
LIMIT_S = 120.0
EPOCHS, NUM_STEPS = {"epochs": 20}, 80  # enough that each signal comes before the end


def signalled(command: list[str], run_dir: Path, number: int, after_step: int) -> int:
    """Starts a training, sends it a signal once `after_step` has been recorded, and returns how it ended."""
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + LIMIT_S
    try:
        while last_step(run_dir) < after_step:
            assert process.poll() is None, "training ended before the signal"
            assert time.monotonic() < deadline, f"no step {after_step} within {LIMIT_S} s"
            time.sleep(0.01)
        process.send_signal(number)
        return process.wait(LIMIT_S)
    finally:
        process.kill()
        process.wait()


def last_step(run_dir: Path) -> int:
    return max(losses(run_dir), default=0)


def saved_step(run_dir: Path) -> int:
    return checkpoint.verify(checkpoint.newest(run_dir)).step


def test_a_run_that_three_signals_ended_resumes_each_time_to_the_weights_of_an_undisturbed_one(tmp_path, folder):
    settings = small_run(tmp_path / "a", folder, optim=EPOCHS)
    (tmp_path / "config.json").write_text(json.dumps(settings.to_dict()))  # JSON is YAML
    flags, run_dir = ["--config", str(tmp_path / "config.json")], settings.run_dir
    command = [sys.executable, "-m", "jobs.train", *flags]

    for number, code in ((signal.SIGTERM, 143), (signal.SIGINT, 130)):
        before = last_step(run_dir)
        assert signalled(command, run_dir, number, after_step=before + 1) == code
        assert before < saved_step(run_dir) == last_step(run_dir) < NUM_STEPS

    before = saved_step(run_dir)
    assert signalled(command, run_dir, signal.SIGKILL, after_step=before + 6) == -signal.SIGKILL
    assert before < saved_step(run_dir) < NUM_STEPS

    assert exit_code(train_job.main, flags) == 0
    undisturbed = train(small_run(tmp_path / "b", folder, optim=EPOCHS))
    assert same(weights(run_dir), weights(undisturbed))
    assert losses(run_dir) == losses(undisturbed)
