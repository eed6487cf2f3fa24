"""Row 12, through the whole job; settings that contradict each other stand in tests/cli/test_parse.py."""

from pathlib import Path

from tests.faults.tools.forked import Command
from tests.training.runs import small_run


def contents(folder: Path) -> dict[str, bytes]:
    """Every file but the lock, which a refused job takes too."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


def test_settings_that_contradict_the_checkpoint_are_listed_and_fresh_overwrites_nothing(tmp_path, folder):
    first = Command.of(small_run(tmp_path, folder, optim=dict(max_steps=2)))
    first.finish()
    before = contents(first.run_dir)
    changed = {"optim": dict(lr=0.1, max_steps=2), "model": dict(drop_rate=0.5)}

    refused = Command.of(small_run(tmp_path, folder, **changed)).start()
    assert refused.ends_with() == 2
    listed = refused.said().splitlines()
    assert {"  model.drop_rate: 0.0 before, 0.5 now", "  optim.lr: 0.002 before, 0.1 now"} <= {*listed}
    assert "--fresh" in listed[-1]
    assert contents(first.run_dir) == before

    fresh = Command.of(small_run(tmp_path, folder, **changed, run=dict(fresh=True)))
    fresh.finish()
    second = contents(fresh.run_dir)
    fresh.finish()
    assert contents(first.run_dir.with_name("run.1")) == before
    assert contents(first.run_dir.with_name("run.2")) == second
