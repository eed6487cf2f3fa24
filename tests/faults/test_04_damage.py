"""Row 4: whatever became of Ray's own state, and whichever byte of a checkpoint, a run resumes from what is good."""

import shutil
import warnings
from pathlib import Path

import pytest

from tests.faults.tools.kills import Kill
from tests.faults.tools.runs import assert_same, begun_at, command, draw_images
from tests.runs.test_checkpoint import damage, save
from volo.cluster.attempt import Attempt
from volo.runs import checkpoint


def ray_state(run_dir: Path, number: str) -> list[Path]:
    """Files such as Ray leaves in an attempt's folder."""
    folder = run_dir / ".ray" / number
    names = ("ray/checkpoint_manager_snapshot.json", "ray/.validate_storage_marker", "records.jsonl", "worker-0.json")
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text('{"checkpoint_results": [')
    return [folder / name for name in names]


@pytest.mark.parametrize("harm", ["truncate", "remove", "remove all", "a file in place of it"])
def test_rays_own_state_is_never_read_whatever_became_of_it(tmp_path, harm):
    for number in ("001", "002"):
        for path in ray_state(tmp_path, number):
            path.write_bytes(b"") if harm == "truncate" else path.unlink()
    if harm == "remove all":
        shutil.rmtree(tmp_path / ".ray")
    elif harm == "a file in place of it":
        shutil.rmtree(tmp_path / ".ray" / "002")
        (tmp_path / ".ray" / "002").write_text("")
    (tmp_path / ".ray").mkdir(exist_ok=True)
    (tmp_path / ".ray" / "unknown").write_text("")
    attempt = Attempt.create(tmp_path)
    assert attempt.folder.name == ("001" if harm == "remove all" else "003")
    assert attempt.members() == attempt.errors() == []
    assert attempt.last_failure() is None and attempt.stop.asked() == 0


def test_a_flipped_byte_anywhere_in_a_checkpoint_is_seen_and_the_one_before_is_used(tmp_path):
    """Every byte of every file in turn."""
    good, bad = save(tmp_path, 1), save(tmp_path, 2)
    num_bytes = 0
    for name in (checkpoint.MODEL, checkpoint.STATE, checkpoint.MANIFEST):
        content = bytearray((bad / name).read_bytes())
        for index in range(len(content)):
            content[index] ^= 1 << index % 8
            (bad / name).write_bytes(content)
            with pytest.raises(checkpoint.DamagedCheckpoint, match=name):
                checkpoint.verify(bad)
            content[index] ^= 1 << index % 8
        num_bytes += len(content)
        (bad / name).write_bytes(content[:-1] + b"?")
        with pytest.warns(UserWarning, match=f"skipped a damaged checkpoint: .*{name}"):
            assert checkpoint.newest(tmp_path) == good
        (bad / name).write_bytes(content)
    assert num_bytes > 1000
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert checkpoint.newest(tmp_path) == bad


def test_a_run_goes_on_from_the_newest_good_checkpoint_and_names_what_it_passed_over(tmp_path):
    """Of three, the newest is half-written and the one before has a flipped byte; a partial one lies beside them."""
    images = draw_images(tmp_path)
    damaged = command(tmp_path, images, 6, keep_checkpoints=3)
    assert damaged.start(Kill("before a save", 5)).ends_with() == -9
    folders = sorted((damaged.run_dir / "checkpoints").iterdir())
    assert [folder.name for folder in folders] == ["step_00000004", "step_00000006", "step_00000008"]
    shutil.copytree(folders[2], folders[2].with_name(".partial-step_00000010-1"))
    (folders[2] / checkpoint.MANIFEST).unlink()
    damage(folders[1] / checkpoint.MODEL, "flip a byte")
    ray_state(damaged.run_dir, "001")

    [said] = damaged.finish()
    assert begun_at(said) == 4
    assert "step_00000008/manifest.json cannot be read (No such file or directory)" in said
    assert "step_00000006/model.safetensors must match its manifest" in said
    undisturbed = command(tmp_path, images, 6, run_name="undisturbed")
    undisturbed.finish()
    assert_same(damaged.run_dir, undisturbed.run_dir)
