"""Users' own spaces, and what is refused before anything is trained."""

from pathlib import Path

import pytest

import tune_spaces
from volo.errors import InputError
from volo.tuning.search.spaces import check_space, is_base, load_space

WIDTHS = """
METRIC, MODE = "val/acc1", "max"
FIRST_POINTS = ({"width": 64},)
def space(trial):
    width = trial.suggest_categorical("width", [32, 64])
    return {"model": {"embed_dim": width, "num_heads": 2}}
"""
BASE = {"model": {"variant": "quickstart"}, "data": {"dataset": "shapes"}}


def written(tmp_path: Path, text: str) -> str:
    (tmp_path / "widths.py").write_text(text)
    return str(tmp_path / "widths.py")


def test_a_file_of_ones_own_is_a_space(tmp_path):
    space = load_space(written(tmp_path, WIDTHS), tune_spaces)
    check_space(space, BASE)
    assert (space.name, space.recipe) == ("widths", None)
    assert is_base(space, BASE)
    assert not is_base(space, BASE, {"model": {"embed_dim": 96, "num_heads": 3}})


def test_a_changed_file_is_another_space(tmp_path):
    before = load_space(written(tmp_path, WIDTHS), tune_spaces)
    after = load_space(written(tmp_path, WIDTHS.replace("[32, 64]", "[32, 64, 128]")), tune_spaces)
    assert before.source != after.source


@pytest.mark.parametrize("name", ["pool", "pooling/", "tune_spaces.pooling"])
def test_an_unknown_name_is_refused_with_those_there_are(name):
    with pytest.raises(InputError, match=r"must be one of architecture, .*pooling, or a path that ends in \.py"):
        load_space(name, tune_spaces)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 / 0", r"must not raise when it is loaded, got ZeroDivisionError: .* at line 1 of .*widths\.py"),
        ("def space(:", "must not raise when it is loaded, got SyntaxError"),
        ("METRIC = 'val/acc1'", r"must define space\(trial\), METRIC and MODE, got no space, MODE in widths"),
        (WIDTHS.replace('"max"', '"most"'), "MODE must be one of max or min, got 'most'"),
    ],
)
def test_a_file_that_is_no_space_is_refused(tmp_path, text, message):
    with pytest.raises(InputError, match=message):
        load_space(written(tmp_path, text), tune_spaces)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("return", "assert width < 64\n    return", "must not raise, got AssertionError: .* at line 6"),
        (
            "[32, 64]",
            "[32, 64, 63]",
            "must draw valid settings, got invalid ones: embed_dim must be divisible by num_heads",
        ),
        ('{"width": 64}', '{"width": 99}', r"point 1 of FIRST_POINTS: \{\}"),
        ('{"width": 64}', '{"depth": 1}', "The value of the parameter 'width' is not found"),
        ('return {"model"', 'return {1}, {"model"', r"must return settings, nested dictionaries, got tuple"),
    ],
)
def test_a_space_that_raises_or_draws_what_is_refused_is_named_with_the_point(tmp_path, old, new, message):
    text = WIDTHS.replace(old, new)
    with pytest.raises(InputError, match=message):
        check_space(load_space(written(tmp_path, text), tune_spaces), BASE)


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(InputError, match="must name an existing file"):
        load_space(str(tmp_path / "none.py"), tune_spaces)
