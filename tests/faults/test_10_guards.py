"""Row 10: a loss that is not finite, a rank that hangs, memory that runs out; and errors that nobody foresaw.

Jobs in processes of their own, with the fault built in (tests/faults/tools/faulty.py), except where a run in this
process shows the same.
"""

import json
import os
import signal
import socket
import time
from pathlib import Path

import pytest
import torch

from tests.faults.tools import faulty
from tests.faults.tools.faulty import Flaw
from tests.faults.tools.forked import Command, Job
from tests.faults.tools.processes import ended, in_one_process, pid_of_rank, under_torchrun, until, written
from tests.training.runs import losses, same, small_run, train, weights
from volo.cli import train as train_job
from volo.cli.outcome import exit_code
from volo.data.pipeline import Pixels
from volo.runs import checkpoint
from volo.runs.listing import read_run
from volo.runs.records import read_records
from volo.settings.config import Settings
from volo.training.precision import MAX_SKIPPED, computes_bf16

UNMIXED = dict(augment=dict(mixup_alpha=0.0, cutmix_alpha=0.0))


@pytest.fixture
def nan_image(monkeypatch):
    """One image decodes to nan, so that one step of every epoch has a loss that is not finite."""
    monkeypatch.setattr(Pixels, "augmented", Pixels.augmented)  # is put back afterwards
    faulty.nan()


def bad_steps(run_dir: Path) -> list[int]:
    return [json.loads(path.read_text())["step"] for path in sorted(run_dir.glob("nonfinite_step_*.json"))]


def all_tensors(run_dir: Path, step: int) -> dict[str, torch.Tensor]:
    """Of a checkpoint: weights, their average and how often it was taken, the optimizer's moments."""
    path = checkpoint.folder_of(run_dir, step)
    averaged, _ = checkpoint.load_model(path)
    state = checkpoint.load_state(path)
    moments = {f"{i}.{name}": m for i, own in state["optimizer"]["state"].items() for name, m in own.items()}
    raw = {f"raw.{name}": weight for name, weight in state["model"].items()}
    return averaged | raw | moments | {"num_averaged": torch.tensor(state["num_averaged"])}


def test_a_loss_that_is_not_finite_ends_with_code_3_and_its_batch_is_written_down(tmp_path, folder, nan_image, capsys):
    settings = small_run(tmp_path, folder, run=dict(checkpoint_every=1))
    run_dir = settings.run_dir
    assert exit_code(train_job.main, [*written(settings, tmp_path), "--num-workers", "0"]) == 3
    [path] = run_dir.glob("nonfinite_step_*.json")
    found, errors = json.loads(path.read_text()), capsys.readouterr().err
    assert f"training failed: the loss must stay finite, got nan at step {found['step']}" in errors
    assert str(path) in errors
    assert (found["epoch"], found["loss"], found["ranks_not_finite"]) == (1, "nan", [0])
    [bad] = [sample for sample in found["samples"] if sample["image"] == faulty.BAD_IMAGE]
    assert 16 * (found["step"] - 1) <= bad["position"] < 16 * found["step"]
    assert Path(bad["file"]).is_file()
    assert len(found["samples"]) == 16
    newest = checkpoint.newest(run_dir)
    assert newest is None or checkpoint.verify(newest).step == found["step"] - 1
    assert not (run_dir / "best").exists()
    assert read_run(run_dir).state == "failed"


def test_a_batch_that_cannot_be_written_down_is_not_said_to_be(tmp_path, folder, nan_image, capsys):
    settings = small_run(tmp_path, folder)
    flags = [*written(settings, tmp_path), "--num-workers", "0"]
    assert exit_code(train_job.main, flags) == 3
    [path] = settings.run_dir.glob("nonfinite_step_*.json")
    path.unlink()
    path.mkdir()
    assert exit_code(train_job.main, flags) == 3
    assert f"its images could not be listed in {path} (Is a directory). The last" in capsys.readouterr().err


def test_a_skipped_update_changes_nothing_and_the_run_resumes_to_the_same_weights(tmp_path, folder, nan_image):
    skips = dict(optim=dict(skip_nonfinite=1), run=dict(checkpoint_every=1, keep_checkpoints=100))
    whole = train(small_run(tmp_path / "a", folder, **skips))
    epochs = [json.loads(path.read_text())["epoch"] for path in sorted(whole.glob("nonfinite_step_*.json"))]
    assert epochs == [1, 2, 3]
    for step in bad_steps(whole):
        after = checkpoint.load_state(checkpoint.folder_of(whole, step))
        assert after["num_skipped"] == 1
        if step > 1:
            assert same(all_tensors(whole, step - 1), all_tensors(whole, step))
    skipped = [record["step"] for record in read_records(whole) if record["kind"] == "skipped"]
    assert skipped == bad_steps(whole)

    for last in (bad_steps(whole)[1], None):  # ends with a skipped step, then continues
        resumed = train(small_run(tmp_path / "b", folder, optim=dict(skip_nonfinite=1, max_steps=last)))
    assert same(weights(whole), weights(resumed))


def test_a_run_that_failed_goes_on_with_skipping(tmp_path, folder, nan_image, capsys):
    settings = small_run(tmp_path, folder, run=dict(checkpoint_every=1))
    flags = [*written(settings, tmp_path), "--num-workers", "0"]
    assert exit_code(train_job.main, flags) == 3
    assert exit_code(train_job.main, [*flags, "--skip-nonfinite", "1"]) == 0
    assert "number 1 in a row" in capsys.readouterr().out


def test_one_bad_step_more_in_a_row_than_may_be_skipped_ends_training(tmp_path, folder, monkeypatch, capsys):
    real = Pixels.augmented
    monkeypatch.setattr(Pixels, "augmented", lambda *args: real(*args) * float("nan"))
    settings = small_run(tmp_path, folder, run=dict(checkpoint_every=1))
    flags = [*written(settings, tmp_path), "--num-workers", "0", "--skip-nonfinite", "2"]
    assert exit_code(train_job.main, flags) == 3
    assert "got nan at step 3" in capsys.readouterr().err
    assert bad_steps(settings.run_dir) == [1, 2, 3]
    assert exit_code(train_job.main, flags) == 3  # what was skipped in a row is counted on
    assert bad_steps(settings.run_dir) == [1, 2, 3]


def test_a_validation_whose_loss_is_not_finite_is_never_the_best(tmp_path, folder, monkeypatch):
    real = Pixels.plain
    monkeypatch.setattr(Pixels, "plain", lambda self, index: real(self, index) * float("nan"))
    run_dir = train(small_run(tmp_path, folder, optim=dict(epochs=1)))
    [epoch] = [record for record in read_records(run_dir) if record["kind"] == "epoch"]
    assert epoch["val/loss"] != epoch["val/loss"]  # nan
    assert epoch["val/acc1"] == 0  # what is NaN is never right
    assert (run_dir / "last").exists()
    assert not (run_dir / "best").exists()


def two_ranks(settings: Settings, flaw: str) -> list[Job]:
    return Command.of(settings).start_ranks(Flaw(flaw), Flaw(flaw))


def test_two_ranks_skip_the_same_update_and_name_the_rank_whose_share_was_bad(tmp_path, folder):
    settings = small_run(tmp_path, folder, **UNMIXED, optim=dict(epochs=1, skip_nonfinite=1))
    jobs = two_ranks(settings, "nan")
    assert [job.ends_with() for job in jobs] == [0, 0], [job.said() for job in jobs]
    [path] = settings.run_dir.glob("nonfinite_step_*.json")
    found = json.loads(path.read_text())
    [bad] = [sample for sample in found["samples"] if sample["image"] == faulty.BAD_IMAGE]
    assert found["ranks_not_finite"] == [bad["rank"]]
    assert [sample["rank"] for sample in found["samples"]] == [0] * 8 + [1] * 8
    assert all(weight.isfinite().all() for weight in weights(settings.run_dir).values())
    assert [step for step, loss in losses(settings.run_dir).items() if loss != loss] == [found["step"]]


@pytest.mark.slow
def test_ranks_under_the_fp16_scaler_skip_and_stop_together_whosever_gradient_is_infinite(tmp_path, folder):
    fp16 = dict(epochs=10, use_amp=True, autocast_dtype="fp16")
    settings = small_run(tmp_path, folder, optim=fp16)
    code, _, errors = ended(under_torchrun("gradient", written(settings, tmp_path)))
    assert code != 0
    assert errors.count(f"training failed: gradients must be finite, got {MAX_SKIPPED} updates in a row") == 2
    assert max(losses(settings.run_dir)) == MAX_SKIPPED - 1
    assert same(all_tensors(settings.run_dir, 12), all_tensors(settings.run_dir, 16))


def test_a_process_whose_data_never_come_is_ended_with_code_3_and_says_where_it_hung(tmp_path, folder):
    settings = small_run(tmp_path, folder, run=dict(hang_timeout="2s"))
    job = Command.of(settings).start(Flaw("hang"))
    assert job.ends_with() == 3, job.said()
    place = f"tests/faults/tools/faulty.py:{line_of('threading.Event().wait()')} in wait_for_ever"
    message = (settings.run_dir / "failure.txt").read_text()
    assert f"pid {report(settings.run_dir, 0)['pid']}) hanging in phase data after step 2, at " in message
    assert place in message
    assert message.removeprefix("TrainingError: ").strip() in job.said()
    assert any("threading.py" in frame for frame in report(settings.run_dir, 0)["stack"])
    assert read_run(settings.run_dir).state == "failed"


def test_a_frozen_rank_ends_the_run_which_names_it(tmp_path, folder):
    settings = small_run(tmp_path, folder, optim=dict(epochs=1000), run=dict(hang_timeout="2s"))
    run_dir = settings.run_dir
    process = under_torchrun("none", written(settings, tmp_path))
    until(lambda: max(losses(run_dir), default=0) >= 3, process)
    frozen = pid_of_rank(1, process.pid)
    os.kill(frozen, signal.SIGSTOP)
    try:
        until(lambda: (run_dir / "failure.txt").exists(), process)
    finally:
        os.kill(frozen, signal.SIGCONT)  # else torchrun asks it to end for half a minute
    code, _, errors = ended(process)
    assert code != 0
    message = f"no answer from rank 1 ({socket.gethostname()}, pid {frozen}), which is frozen or gone; rank 0 waits"
    assert f"training failed: training must make progress within hang_timeout=2 s, got {message}" in errors
    assert message in (run_dir / "failure.txt").read_text()


@pytest.mark.slow
def test_of_two_ranks_the_one_whose_data_never_come_is_named(tmp_path, folder):
    settings = small_run(tmp_path, folder, run=dict(hang_timeout="3s"))
    code, _, errors = ended(under_torchrun("hang", written(settings, tmp_path)))
    assert code != 0
    pid = report(settings.run_dir, 1)["pid"]
    assert f"got rank 1 ({socket.gethostname()}, pid {pid}) hanging in phase data after step 2" in errors
    assert report(settings.run_dir, 0)["phase"] == "update"


def test_a_process_that_was_stopped_for_longer_than_the_timeout_goes_on(tmp_path, folder):
    settings = small_run(tmp_path, folder, optim=dict(epochs=10), run=dict(hang_timeout="2s"))
    process = in_one_process("none", written(settings, tmp_path))
    until(lambda: max(losses(settings.run_dir), default=0) >= 3, process)
    process.send_signal(signal.SIGSTOP)
    time.sleep(3)  # what is tested is that this time does not count
    process.send_signal(signal.SIGCONT)
    code, _, errors = ended(process)
    assert code == 0, errors
    assert not (settings.run_dir / "hang").exists()


def test_memory_that_runs_out_ends_with_code_3_and_what_to_change(tmp_path, folder):
    settings = small_run(tmp_path, folder, data=dict(image_size=128), optim=dict(batch_size=32))
    job = Command.of(settings).start(Flaw("memory"))
    assert job.ends_with() == 3, job.said()
    errors = job.said()
    assert "training failed: memory ran out at step 3 on rank 0, cpu (peak " in errors
    assert "model quickstart at 128 pixels in float32, batch_size=32 over 1 worker in grad_accum_steps=1" in errors
    first = "--grad-accum-steps 2 (the same gradient in less memory), --batch-size 16"
    recompute = "--grad-checkpointing (the same gradient in less memory and more time)"
    last = "--use-amp" if computes_bf16() else "or a smaller --model"  # never a slower step
    assert f"Use {first}, {recompute}, {last}" in errors
    assert "Traceback" not in errors
    assert read_run(settings.run_dir).state == "failed"


def test_an_error_that_nobody_foresaw_on_one_rank_is_named_with_its_rank_and_place(tmp_path, folder):
    settings = small_run(tmp_path, folder)
    jobs = two_ranks(settings, "raise")
    assert all(job.ends_with() != 0 for job in jobs)
    errors = "".join(job.said() for job in jobs)
    failure = (settings.run_dir / "failure.txt").read_text()
    place = f"tests/faults/tools/faulty.py:{line_of('raise ZeroDivisionError')} in fail"
    assert failure.startswith("ZeroDivisionError: nobody foresaw this (rank 1 of 2, ")
    assert place in failure
    assert errors.count("ZeroDivisionError: nobody foresaw this\n") == 1
    assert f"training failed: rank 0 lost the others, one of which failed first: {failure.strip()}" in errors


def report(run_dir: Path, rank: int) -> dict:
    return json.loads((run_dir / "hang" / "1" / f"rank_{rank}.json").read_text())


def line_of(code: str) -> int:
    lines = Path(faulty.__file__).read_text().splitlines()
    return 1 + next(number for number, line in enumerate(lines) if code in line)
