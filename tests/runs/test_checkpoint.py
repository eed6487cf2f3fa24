"""What a checkpoint is, and what is skipped or refused."""

import builtins
import json
import os
import pickle
import shutil
from pathlib import Path

import pytest
import safetensors.torch
import torch

from volo.errors import InputError, TrainingError
from volo.runs import checkpoint
from volo.runs.listing import newest_step
from volo.runs.model_file import Description
from volo.runs.records import read_records
from volo.settings.config import build_settings
from volo.settings.yaml_files import read_yaml

WEIGHTS = {"head.weight": torch.arange(6.0).reshape(2, 3)}
SETTINGS = build_settings({"optim": {"epochs": 3}}).resolved()


def save(run_dir: Path, step: int, weights=WEIGHTS) -> Path:
    description = Description(SETTINGS, ("cat", "<b>dog"), "hash", step, epoch=1)
    return checkpoint.save(run_dir, weights, description, {"step": step, "moment": torch.ones(2)}, total_steps=30)


class Evil:
    """Unpickling this writes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_what_is_saved_comes_back(tmp_path):
    folder = save(tmp_path, 12)
    weights, description = checkpoint.load_model(folder)
    assert torch.equal(weights["head.weight"], WEIGHTS["head.weight"])
    assert description == Description(SETTINGS, ("cat", "<b>dog"), "hash", 12, 1)
    assert torch.equal(checkpoint.load_state(folder)["moment"], torch.ones(2))
    assert checkpoint.verify(folder).total_steps == 30


@pytest.mark.parametrize("name", ["", "last", "checkpoints/step_00000012", "lone.safetensors"])
def test_a_run_its_pointers_its_checkpoints_and_a_lone_file_can_be_named(tmp_path, name):
    shutil.copy(save(tmp_path, 12) / checkpoint.MODEL, tmp_path / "lone.safetensors")
    _, description = checkpoint.load_model(checkpoint.find(tmp_path / name))
    assert description.step == 12


def test_a_run_means_its_best_checkpoint_for_inference_and_its_newest_to_resume(tmp_path):
    checkpoint.point(tmp_path, "best", save(tmp_path, 5))
    newest = save(tmp_path, 6)
    assert checkpoint.find(tmp_path).name == "step_00000005"
    assert checkpoint.find(tmp_path, prefer="last") == newest


@pytest.mark.parametrize("harm", ["flip a byte", "remove", "remove all", "empty pointer"])
def test_a_damaged_best_is_skipped_with_a_warning_but_refused_if_named_directly(tmp_path, harm):
    best = save(tmp_path, 5)
    checkpoint.point(tmp_path, "best", best)
    newest = save(tmp_path, 6)
    if harm == "remove all":
        shutil.rmtree(best)
    elif harm == "empty pointer":
        (tmp_path / "best").write_text("")
    else:
        damage(best / checkpoint.MODEL, harm)
    named = {"remove all": r"best names: .*manifest\.json", "empty pointer": r"best, which must name a checkpoint"}
    with pytest.warns(UserWarning, match=named.get(harm, r"best names: .*model\.safetensors")):
        assert checkpoint.find(tmp_path) == newest
    with pytest.raises(InputError, match=str(tmp_path)):
        checkpoint.find(tmp_path / "best")


def test_a_moved_run_is_complete(tmp_path):
    checkpoint.point(tmp_path / "a", "best", save(tmp_path / "a", 5))
    shutil.move(tmp_path / "a", tmp_path / "b")
    assert checkpoint.find(tmp_path / "b" / "best").is_dir()


@pytest.mark.parametrize("edit", [lambda s: b"\xef\xbb\xbf" + s, lambda s: s.strip() + b"\r\n", lambda s: s + b"\n\n"])
def test_files_of_a_run_that_an_editor_saved_are_read_as_before(tmp_path, edit):
    """With a byte order mark, other line ends, or an empty line more."""
    folder = save(tmp_path, 5)
    checkpoint.point(tmp_path, "best", folder)
    for file in (tmp_path / "best", tmp_path / "last", folder / "manifest.json"):
        file.write_bytes(edit(file.read_bytes()))
    assert checkpoint.find(tmp_path / "best") == checkpoint.find(tmp_path / "last") == folder
    (tmp_path / "metrics.jsonl").write_bytes(edit(b'{"kind": "step", "step": 1}'))
    assert read_records(tmp_path) == [{"kind": "step", "step": 1}]
    (tmp_path / "config.yaml").write_bytes(edit(b"optim:\n  epochs: 3"))
    assert read_yaml(tmp_path / "config.yaml") == {"optim": {"epochs": 3}}


def test_the_newest_and_the_best_are_kept(tmp_path):
    checkpoint.point(tmp_path, "best", save(tmp_path, 1))
    for step in range(2, 7):
        save(tmp_path, step)
    checkpoint.prune(tmp_path, keep=2)
    assert sorted(p.name[-1] for p in (tmp_path / "checkpoints").iterdir()) == ["1", "5", "6"]


def test_pruning_leaves_what_somebody_else_put_beside_the_checkpoints(tmp_path):
    """A copy of a checkpoint with another name is never the newest, and never removed."""
    for step in (1, 2, 3):
        save(tmp_path, step)
    names = ["step_00000001-paper", "step_00000002 (copy)", "step_1", "step_00000009.bak", "step_٠٠٠٠٠٠٠٩", "notes"]
    for name in names:
        shutil.copytree(tmp_path / "checkpoints" / "step_00000001", tmp_path / "checkpoints" / name)
    (tmp_path / "checkpoints" / ".notes.partial").touch()
    os.utime(tmp_path / "checkpoints" / ".notes.partial", (0, 0))
    checkpoint.prune(tmp_path, keep=1)
    left = {path.name for path in (tmp_path / "checkpoints").iterdir()}
    assert left == {*names, ".notes.partial", "step_00000003"}
    shutil.rmtree(tmp_path / "checkpoints" / "step_00000003")
    assert checkpoint.newest(tmp_path) is None


@pytest.mark.parametrize("harm", ["flip a byte", "cut short", "remove", "empty"])
def test_a_damaged_checkpoint_is_not_counted_among_those_to_keep(tmp_path, harm):
    for step in (1, 2, 3, 4):
        save(tmp_path, step)
    damage(tmp_path / "checkpoints" / "step_00000004" / checkpoint.MODEL, harm)
    damage(tmp_path / "checkpoints" / "step_00000002" / checkpoint.STATE, harm)
    checkpoint.prune(tmp_path, keep=2)
    assert sorted(path.name[-1] for path in (tmp_path / "checkpoints").iterdir()) == ["1", "2", "3", "4"]
    save(tmp_path, 5)
    checkpoint.prune(tmp_path, keep=2)
    assert sorted(path.name[-1] for path in (tmp_path / "checkpoints").iterdir()) == ["3", "4", "5"]


def test_pruning_reads_no_file_of_a_checkpoint_that_this_process_has_written(tmp_path, monkeypatch):
    for step in (1, 2, 3):
        save(tmp_path, step)
    monkeypatch.setattr(checkpoint, "verify", lambda folder: pytest.fail(f"{folder} was read"))
    checkpoint.prune(tmp_path, keep=2)
    assert sorted(path.name[-1] for path in (tmp_path / "checkpoints").iterdir()) == ["2", "3"]


def test_more_than_eight_digits_of_steps_are_sorted_as_numbers(tmp_path):
    for step in (99_999_998, 99_999_999, 100_000_000):
        save(tmp_path, step)
    assert checkpoint.newest(tmp_path).name == "step_100000000"
    assert newest_step(tmp_path) == (100_000_000, 30)
    checkpoint.prune(tmp_path, keep=2)
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["step_100000000", "step_99999999"]


@pytest.mark.parametrize("file", [checkpoint.MODEL, checkpoint.STATE, checkpoint.MANIFEST])
@pytest.mark.parametrize("harm", ["flip a byte", "cut short", "remove", "empty"])
def test_a_damaged_checkpoint_is_skipped_with_a_warning_naming_the_file(tmp_path, file, harm):
    good, bad = save(tmp_path, 1), save(tmp_path, 2)
    damage(bad / file, harm)
    with pytest.warns(UserWarning, match=file):
        assert checkpoint.newest(tmp_path) == good
    with pytest.raises(InputError):
        checkpoint.load_model(bad)


def damage(path: Path, harm: str) -> None:
    content = path.read_bytes()
    middle = len(content) // 2
    if harm == "remove":
        path.unlink()
    elif harm == "flip a byte":
        path.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
    else:
        path.write_bytes(content[: middle if harm == "cut short" else 0])


@pytest.mark.parametrize("place", [checkpoint.MODEL, checkpoint.STATE, "lone"])
def test_a_pickle_with_code_is_refused_and_runs_nothing(tmp_path, place):
    evil = pickle.dumps(Evil(tmp_path / "ran"))
    if place == "lone":
        (tmp_path / "model.safetensors").write_bytes(evil)
        with pytest.raises(InputError, match="must be a model file of this project"):
            checkpoint.load_model(checkpoint.find(tmp_path / "model.safetensors"))
    else:
        files = {name: (save(tmp_path, 1) / name).read_bytes() for name in (checkpoint.MODEL, checkpoint.STATE)}
        checkpoint._commit(tmp_path / "checkpoints" / "step_00000002", {**files, place: evil}, 2, 30)
        with pytest.raises(InputError):
            checkpoint.load_model(tmp_path / "checkpoints" / "step_00000002")
            checkpoint.load_state(tmp_path / "checkpoints" / "step_00000002")
    assert not (tmp_path / "ran").exists()


def test_a_torch_file_with_code_is_refused_and_runs_nothing(tmp_path):
    folder = save(tmp_path, 1)
    torch.save({"step": Evil(tmp_path / "ran")}, tmp_path / "evil.pt")
    files = {checkpoint.MODEL: (folder / checkpoint.MODEL).read_bytes()}
    files[checkpoint.STATE] = (tmp_path / "evil.pt").read_bytes()
    checkpoint._commit(folder, files, 1, 30)
    with pytest.raises(InputError, match="must hold tensors and plain values only"):
        checkpoint.load_state(folder)
    assert not (tmp_path / "ran").exists()


def test_foreign_and_missing_files_are_refused(tmp_path):
    safetensors.torch.save_file(WEIGHTS, tmp_path / "foreign.safetensors")
    with pytest.raises(InputError, match="got one without a description"):
        checkpoint.load_model(tmp_path / "foreign.safetensors")
    with pytest.raises(InputError, match="a checkpoint must exist"):
        checkpoint.find(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no checkpoint that can be used"):
        checkpoint.find(tmp_path / "empty")


def test_a_later_schema_is_refused_and_not_skipped(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "SCHEMA_VERSION", 2)
    save(tmp_path, 1)
    monkeypatch.undo()
    with pytest.raises(InputError, match="has schema_version 2"):
        checkpoint.newest(tmp_path)


def test_a_later_schema_with_more_in_its_manifest_is_refused_too(tmp_path):
    path = save(tmp_path, 1) / checkpoint.MANIFEST
    values = json.loads(path.read_text()) | {"schema_version": 2, "epoch": 1}
    del values["sha256"]
    path.write_text(json.dumps(values | {"sha256": checkpoint._digest(values)}))
    with pytest.raises(InputError, match=r"has schema_version 2, .* update the project") as refused:
        checkpoint.newest(tmp_path)
    assert not isinstance(refused.value, checkpoint.DamagedCheckpoint)


def test_a_disk_that_fails_while_best_is_pointed_at_is_named(tmp_path):
    folder = save(tmp_path, 1)
    (tmp_path / "best").mkdir()
    (tmp_path / "best" / "in the way").touch()
    with pytest.raises(TrainingError, match=r"best could not be written: .* the same command resumes"):
        checkpoint.point(tmp_path, "best", folder)


SYSTEM_CALLS = [(builtins, "open"), (os, "fsync"), (os, "mkdir"), (Path, "rename"), (os, "open")]


@pytest.mark.parametrize(("module", "name"), SYSTEM_CALLS, ids=lambda value: getattr(value, "__name__", value))
def test_a_failure_at_any_write_sync_or_rename_leaves_the_checkpoint_before_intact(tmp_path, monkeypatch, module, name):
    """The n-th call of each fails, for every n there is."""
    good = save(tmp_path, 1)
    real, num_failures = getattr(module, name), 0
    for fail_at in range(1, 20):
        calls = 0

        def failing(*args, fail_at=fail_at, **kwargs):
            nonlocal calls
            calls += 1
            if calls == fail_at:
                raise OSError(28, "No space left on device", str(tmp_path / "x"))
            return real(*args, **kwargs)

        with monkeypatch.context() as patched:
            patched.setattr(module, name, failing)
            try:
                save(tmp_path, 2)
                break
            except TrainingError as error:
                num_failures += 1
                assert "No space left on device" in str(error)
        found = checkpoint.newest(tmp_path)
        assert found.name in ("step_00000001", "step_00000002")
        assert checkpoint.verify(good)
        assert not list((tmp_path / "checkpoints").glob(".*.partial"))
        shutil.rmtree(tmp_path / "checkpoints" / "step_00000002", ignore_errors=True)
    assert num_failures > 0
    assert checkpoint.verify(tmp_path / "checkpoints" / "step_00000002")


def test_a_full_disk_is_named_and_leaves_the_checkpoint_before_intact(tmp_path):
    """A real file-size limit, in a separate process."""
    import subprocess
    import sys

    save(tmp_path, 1)
    script = (
        "import resource, sys, torch\n"
        "from pathlib import Path\n"
        "from tests.runs.test_checkpoint import save\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "save(Path(sys.argv[1]), 2, {'w': torch.zeros(10_000)})\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode != 0
    assert "the checkpoint of step 2 could not be written" in done.stderr
    assert "File too large" in done.stderr
    assert checkpoint.newest(tmp_path).name == "step_00000001"
