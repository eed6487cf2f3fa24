"""A run ends once its patience is spent, and stays so; with more patience it goes on as if it had never stopped."""

import pytest

from tests.training.runs import losses, same, small_run, train, weights
from volo.runs import checkpoint
from volo.runs.records import read_records

STANDSTILL = dict(lr=1e-12, min_lr=0.0, ema_decay=0.0, weight_decay=0.0)  # no validation is better than the first


def epochs(run_dir) -> list[int]:
    return [record["epoch"] for record in read_records(run_dir) if record["kind"] == "epoch"]


def notes(run_dir) -> list[str]:
    return [record["text"] for record in read_records(run_dir) if record["kind"] in ("note", "said")]


@pytest.mark.parametrize("patience", [1, 3])
def test_a_run_that_does_not_get_better_ends_after_as_many_epochs(tmp_path, folder, patience):
    settings = small_run(tmp_path, folder, optim=dict(epochs=8, patience=patience, **STANDSTILL))
    found = train(settings)
    assert epochs(found) == list(range(1, 2 + patience))
    assert f"training ends here: no better validation for {patience} epoch" in notes(found)[-1]
    assert checkpoint.newest(found).name == f"step_{4 * (1 + patience):08}"
    train(settings)
    assert epochs(found) == list(range(1, 2 + patience))


def test_more_patience_goes_on_as_if_the_run_had_never_stopped(tmp_path, folder):
    def run(name, patience):
        optim = dict(epochs=5, patience=patience, **STANDSTILL | dict(lr=1e-9))
        return train(small_run(tmp_path, folder, optim=optim, run=dict(run_name=name)))

    run("stopped", 1)
    stopped, whole = run("stopped", None), run("whole", None)
    assert same(weights(stopped), weights(whole))
    assert losses(stopped) == losses(whole)


def test_a_run_that_gets_better_is_left_alone(tmp_path, folder):
    """The average learns two classes of noise around colours within three epochs, or is perfect before."""
    found = train(small_run(tmp_path, folder, optim=dict(patience=3)))
    assert epochs(found) == [1, 2, 3]
    assert "training ends here" not in " ".join(notes(found))
