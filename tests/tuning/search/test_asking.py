"""Values between a user's space and its trials: NumPy numbers, lists, and what can never be drawn."""

import json
from pathlib import Path

import numpy as np
import pytest

import tune_spaces
from tests.tuning.search.test_spaces import BASE, written
from tests.tuning.sweeps import base, opened, play, states
from volo.errors import InputError
from volo.tuning.board import Board
from volo.tuning.report import SweepFacts, write_sweep_report
from volo.tuning.search.spaces import check_space, load_space
from volo.tuning.study import DRAWN, REASON

HEAD = 'import numpy as np\nMETRIC, MODE = "val/acc1", "max"\n'
NUMPY = (
    HEAD
    + """
RATES = np.array([1e-3, 2e-3, 4e-3], dtype=np.float32)
FIRST_POINTS = (
    {"lr": RATES[1], "batch_size": np.int64(32), "width": np.int64(32), "widths": (32, 64), "hflip": np.True_,
     "smoothing": np.float64(0.1)},
)
def space(trial):
    rate = trial.suggest_categorical("lr", list(RATES))
    assert isinstance(rate, np.float32), "the space's own object"
    width = trial.suggest_categorical("width", np.array([32, 64]))
    widths = trial.suggest_categorical("widths", [(32, 64), (64, 64)])
    assert isinstance(widths, tuple)
    hflip = trial.suggest_categorical("hflip", [np.True_, np.False_])
    smoothing = trial.suggest_float("smoothing", np.float64(0.0), np.float64(0.2), step=np.float64(0.1))
    batch_size = trial.suggest_int("batch_size", np.int64(16), np.int64(64), step=np.int64(16))
    trial.set_user_attr("rates", RATES)
    return {
        "model": {"embed_dim": width * np.int64(1), "num_heads": np.int64(2)},
        "augment": {"hflip": np.float64(0.5 if hflip else 0), "label_smoothing": np.float64(smoothing)},
        "optim": {"lr": rate, "batch_size": batch_size},
        "data": {"mean": np.array([0.5, 0.5, 0.5]), "train_images": np.int64(1000)},
    }
"""
)


def test_a_space_of_numpys_numbers_is_kept_by_the_journal_and_every_trial_of_it_trains(tmp_path):
    space = load_space(written(tmp_path, NUMPY), tune_spaces)
    check_space(space, BASE)
    study = play(opened(tmp_path / "sweep", space=space, num_samples=8, pruner="none"))
    assert states(study) == ["COMPLETE"] * 8
    again = opened(tmp_path / "sweep", space=space, num_samples=8, pruner="none")
    assert again.num_left == 0
    for trial in again.trials[1:]:
        assert json.loads(json.dumps(trial.user_attrs[DRAWN])) == trial.user_attrs[DRAWN]
        kinds = {name: type(value) for name, value in trial.params.items()}
        assert kinds == dict(
            lr=float, width=int, widths=list, hflip=bool, smoothing=float, batch_size=int
        )  # fmt: skip
        settings = again.settings_of(trial.number, trial.user_attrs[DRAWN])
        assert settings.optim.lr == pytest.approx(trial.params["lr"]) and settings.data.mean == (0.5, 0.5, 0.5)


def test_a_sweep_whose_choices_are_lists_has_a_report(tmp_path):
    text = HEAD + (
        "def space(trial):\n"
        "    kept = trial.suggest_categorical('betas', [[0.1, 0.2], [0.3, 0.4]])\n"
        "    return {'augment': {'label_smoothing': kept[0]}, 'optim': {'lr': trial.suggest_float('lr', 1e-4, 1e-2)}}\n"
    )
    space = load_space(written(tmp_path, text), tune_spaces)
    study = play(opened(tmp_path / "sweep", space=space, num_samples=24, pruner="none", settings=base(epochs=1)))
    facts = SweepFacts("s", "s", "s", ["val/acc1"], 1, study.run_dir)
    assert "[0.1, 0.2]" in write_sweep_report(study.study, study.sweep_dir, facts).read_text()


CHANGING = """
def space(trial):
    first = trial.suggest_categorical("first", [1, 2])
    other = trial.suggest_categorical("other", ["a", "b"] if first == 1 else ["a", "c"])
    return {"augment": {"label_smoothing": 0.1 * first}}
"""

OF_TWO_KINDS = """
def space(trial):
    first = trial.suggest_categorical("first", [1, 2])
    other = trial.suggest_categorical("other", ["a", "b"]) if first == 1 else trial.suggest_int("other", 1, 2)
    return {}
"""
OF_AN_OBJECT = "def space(trial):\n    return {'augment': {'label_smoothing': object()}}"


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        (CHANGING, 6, r"must be the same in every trial, got \['a', '[bc]'\] after \['a', '[bc]'"),
        (OF_TWO_KINDS, 6, "a parameter must be of one kind in every trial, got suggest_"),
        (CHANGING.replace('["a", "b"] if', "[object()] if"), 6, "the choices of a parameter must be numbers, strings"),
        (CHANGING.replace('"first", [1, 2]', '"first", []'), 5, "a trial must be able to draw what the space asks for"),
        (OF_AN_OBJECT, None, r"space\(trial\) must return numbers, .* got <object .* for augment.label_smoothing"),
        ("def space(trial):\n    trial.set_user_attr('x', object())\n    return {}", 4, "an attribute of a trial must"),
    ],
)  # fmt: skip
def test_what_can_never_be_drawn_is_refused_before_the_sweep_with_the_spaces_line_and_parameter(
    tmp_path, text, line, message
):
    with pytest.raises(InputError, match=message) as refused:
        check_space(load_space(written(tmp_path, HEAD + text), tune_spaces), BASE)
    said = str(refused.value)
    assert "optuna" not in said.lower() and "Distribution does" not in said
    assert line is None or f"at line {line} of {tmp_path / 'widths.py'}" in said
    assert "other" in said or "first" in said or "augment" in said or "'x'" in said


def test_an_error_from_deep_within_a_library_is_named_by_the_line_of_the_space_that_called_it(tmp_path):
    text = HEAD + "def space(trial):\n    return {'optim': {'lr': np.linalg.inv(np.zeros((2, 2)))[0, 0]}}"
    with pytest.raises(InputError, match=r"LinAlgError: Singular matrix at line 4 of .*widths\.py"):
        check_space(load_space(written(tmp_path, text), tune_spaces), BASE)


def test_a_trial_whose_space_raises_is_shown_with_its_number_and_reason(tmp_path, capsys):
    text = HEAD + (
        "def space(trial):\n    smoothing = trial.suggest_categorical('smoothing', [0.1, 0.2, 0.3])\n"
        "    assert smoothing != 0.2, 'not this one'\n    return {'augment': {'label_smoothing': smoothing}}"
    )
    study = opened(tmp_path / "sweep", space=load_space(written(tmp_path, text), tune_spaces), pruner="none")
    with Board(study) as board:
        study.on_end = board.end
        play(study)
    [failed] = [trial for trial in study.trials if trial.state.name == "FAIL"]
    reason = f"AssertionError: not this one at line 5 of {Path(tmp_path, 'widths.py')}"
    assert failed.user_attrs[REASON] == reason
    assert f"trial {failed.number} failed: {reason}; " in capsys.readouterr().out


def test_numpys_kinds_are_what_the_test_believes():
    assert not isinstance(np.int64(1), int) and not isinstance(np.True_, bool)
