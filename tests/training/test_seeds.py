"""Several seeds: each a run of its own, summed up."""

import contextlib
import io
import json
import math
import shutil
import statistics

import numpy as np
import pytest

from tests.conftest import draw_folder
from tests.training.runs import losses, same, small_run, train, weights
from volo.cli import pipeline
from volo.cli import train as train_job
from volo.cli.outcome import exit_code
from volo.cli.parse import parse_settings
from volo.errors import InputError, Stopped, TrainingError
from volo.runs.listing import Scores, read_scores
from volo.training import launch, loop
from volo.training.learner import Learner
from volo.training.seeds import summarize


def several(tmp_path, folder, *seeds, **overrides):
    """Runs of four steps, one epoch."""
    run = overrides.pop("run", {})
    return small_run(tmp_path, folder, run=dict(seeds=seeds, **run), optim=dict(epochs=1), **overrides)


def alone(tmp_path, folder, seed):
    return train(small_run(tmp_path, folder, run=dict(seed=seed), optim=dict(epochs=1)))


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return draw_folder(tmp_path_factory.mktemp("images"), {"train": {"cat": 40, "dog": 40}})


@pytest.fixture(scope="module")
def trained(tmp_path_factory, images):
    """Seeds 3 and 5, and what was printed."""
    folder, printed = tmp_path_factory.mktemp("trained"), io.StringIO()
    with contextlib.redirect_stdout(printed):
        run_dir = train(several(folder, images, 3, 5))
    return run_dir, printed.getvalue().splitlines()


@pytest.fixture
def continued(trained, tmp_path):
    """A folder of the test's own, with the trained seeds in it."""
    shutil.copytree(trained[0], tmp_path / "outputs" / "run")
    return tmp_path


def test_each_seed_is_the_run_it_would_be_alone_and_they_differ(trained, images, tmp_path):
    run_dir, _ = trained
    expected = alone(tmp_path, images, 5)
    assert same(weights(run_dir / "seed5"), weights(expected))
    assert losses(run_dir / "seed5") == losses(expected)
    assert not same(weights(run_dir / "seed3"), weights(expected))
    assert {path.name for path in run_dir.iterdir()} == {"seed3", "seed5", "seeds.json"}


def test_the_summary_is_the_mean_and_spread_of_the_runs_validation(trained):
    run_dir, printed = trained
    summary = json.loads((run_dir / "seeds.json").read_text())
    scores = [read_scores(run_dir / f"seed{seed}") for seed in (3, 5)]
    for kind in ("best", "last", "train_loss"):
        values = [getattr(one, kind) for one in scores]
        assert [one[kind] for one in summary["seeds"].values()] == values
        assert summary[kind]["mean"] == pytest.approx(sum(values) / 2)
        assert summary[kind]["std"] == pytest.approx(statistics.stdev(values))
    assert printed[0] == printed[-1] == f"run folder: {run_dir}"
    table = printed[-9:-2]
    assert [line.split()[0] for line in table] == ["seed", "3", "5", "mean", "std", "min", "max"]
    assert f"{summary['last']['mean']:.2%}" in table[3]
    low, high = summary["last"]["interval"]
    assert printed[-2].startswith("95% intervals of the means over 2 seeds: best val top-1 ")
    assert f"last val top-1 {low:.2%} to {high:.2%}, train loss" in printed[-2]


def test_a_mean_needs_every_seed_and_a_spread_two():
    full, empty = Scores(2, 0.5, 1, 0.25, 1.0), Scores(2, None, None, None, 2.0)
    assert summarize({0: full})["best"] == {
        "mean": 0.5, "std": None, "interval": None, "min": 0.5, "max": 0.5,
    }  # fmt: skip
    summary = summarize({0: full, 1: empty})
    assert summary["best"] is None
    assert summary["train_loss"]["std"] == pytest.approx(math.sqrt(0.5))


@pytest.mark.parametrize("num_seeds", [2, 3, 5, 15])
def test_the_interval_of_a_mean_over_few_seeds_holds_the_truth_at_its_rate(num_seeds):
    """A rate of 5 in 100 is passed by chance alone 1 time in 1000: 72 misses of 1000."""
    generator = np.random.default_rng(num_seeds)
    misses = 0
    for values in generator.normal(0.7, 0.02, (1000, num_seeds)):
        low, high = summarize({seed: Scores(1, float(v), 1, float(v), 1.0) for seed, v in enumerate(values)})["best"][
            "interval"
        ]
        misses += not low <= 0.7 <= high
    assert 28 <= misses <= 72


def test_the_same_command_goes_on_with_the_seed_that_was_stopped(images, tmp_path, capsys, monkeypatch):
    settings = several(tmp_path, images, 0, 1)
    real, calls = Learner.update, 0

    def counted(self, *args):
        nonlocal calls
        calls += 1
        return real(self, *args)

    def stop() -> int:
        return 15 if calls >= 6 else 0  # after the second of four steps of the second run

    monkeypatch.setattr(Learner, "update", counted)
    with monkeypatch.context() as patched:
        patched.setattr(launch, "train", lambda *args, **kwargs: loop.train(*args, **kwargs | {"wants_stop": stop}))
        with pytest.raises(Stopped):
            train(settings)
    capsys.readouterr()
    train(settings)
    printed = capsys.readouterr().out
    assert calls == 8  # each step of each seed once
    assert printed.count("this run is finished") == 1
    assert "resuming at step" in printed
    assert same(weights(settings.run_dir / "seed1"), weights(alone(tmp_path / "b", images, 1)))


def test_a_seed_can_be_added_and_finished_ones_are_not_run_again(continued, images):
    before = (continued / "outputs" / "run" / "seed3" / "metrics.jsonl").read_bytes()
    run_dir = train(several(continued, images, 5, 3, 0))
    assert (run_dir / "seed3" / "metrics.jsonl").read_bytes() == before
    assert list(json.loads((run_dir / "seeds.json").read_text())["seeds"]) == ["5", "3", "0"]


def test_other_settings_than_those_of_a_seed_that_is_there_are_refused_before_any_is_trained(continued, images):
    other = several(continued, images, 0, 5, model=dict(drop_rate=0.5))
    with pytest.raises(InputError, match=r"model\.drop_rate: 0\.0 before, 0\.5 now"):
        train(other)
    assert not (other.run_dir / "seed0").exists()
    fresh = train(several(continued, images, 0, model=dict(drop_rate=0.5), run=dict(fresh=True)))
    assert (fresh.with_name("run.1") / "seed5").exists()
    assert {path.name for path in fresh.iterdir()} == {"seed0", "seeds.json"}


def test_seeds_and_a_single_run_never_share_a_folder(continued, images):
    with pytest.raises(InputError, match="must be a run folder or not exist"):
        train(small_run(continued, images))
    with pytest.raises(InputError, match="seeds must be trained in their own folder"):
        train(several(continued, images, 0, run=dict(run_name="run/seed3")))


def test_a_failed_seed_ends_the_command_and_leaves_word_of_why(continued, images, monkeypatch):
    settings = several(continued, images, 3, 0, 1)
    real = Learner.update

    def poisoned(self, batch, lr):
        loss, norm = real(self, batch, lr)
        return loss * float("nan"), norm

    with monkeypatch.context() as patched:
        patched.setattr(Learner, "update", poisoned)
        with pytest.raises(TrainingError, match="got nan at step"):
            train(settings)
    assert "the loss must stay finite" in (settings.run_dir / "seed0" / "failure.txt").read_text()
    assert not (settings.run_dir / "seed1").exists()
    train(several(continued, images, 0))
    assert not (settings.run_dir / "seed0" / "failure.txt").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--seeds 0 1 --seed 0", "--seed has no effect with --seeds"),
        ("--seeds 0 1 --seed=4", "seed has no effect with seeds"),
        ("--seeds 1 1", "--seeds must be one or more, all different, got --seeds=[1, 1]"),
        ("--seeds", "seeds must be one or more"),
        ("--seeds -1", "--seeds must be greater than or equal to 0, got -1"),
        ("--seeds 0 1 --resume-path x", "--resume-path starts one run from a checkpoint"),
    ],
)
def test_seeds_that_contradict_end_with_code_2(flags, message, capsys):
    assert exit_code(train_job.main, flags.split()) == 2
    assert message in capsys.readouterr().err


def test_the_pipeline_refuses_several_seeds(capsys):
    assert exit_code(pipeline.main, ["--recipe", "quickstart", "--seeds", "0", "1"]) == 2
    assert "volo pipeline trains one run" in capsys.readouterr().err


def test_printed_seeds_are_settings_and_read_back(capsys, tmp_path):
    flags = ["--recipe", "nano", "--seeds", "0", "7"]
    assert parse_settings([*flags, "--print-config"], prog="train", description="") is None
    (tmp_path / "a.yaml").write_text(capsys.readouterr().out)
    read = parse_settings(["--config", str(tmp_path / "a.yaml")], prog="train", description="")
    assert read.run.seeds == (0, 7)
