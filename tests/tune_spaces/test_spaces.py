"""The project's spaces: every point gives valid settings and a model; the recipe itself comes first."""

import importlib

import optuna
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import tune_spaces
from volo.model.build import build_model
from volo.settings.recipes import recipe_settings
from volo.tuning.search.library import space_names
from volo.tuning.search.spaces import check_space, is_base, load_space

NAMES = space_names(tune_spaces)
SHAPES = {"data": {"dataset": "shapes"}}


def base_of(space) -> tuple[dict, dict]:
    return recipe_settings(space.recipe), SHAPES


def build(settings) -> torch.nn.Module:
    with torch.device("meta"):
        return build_model(settings.model, num_classes=7, image_size=settings.data.image_size)


def drawn_by(space, seed: int):
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    trial = study.ask()
    _, settings = space.settings(trial, *base_of(space))
    return trial.params, settings


@pytest.fixture(scope="module", autouse=True)
def quiet():
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def test_the_spaces_are_those_that_are_documented():
    assert {"pooling", "hierarchy", "downsampling", "mix", "architecture", "optimizer"} == {*NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_the_first_point_is_the_recipe_itself_and_every_first_point_builds(name):
    space = load_space(name, tune_spaces)
    check_space(space, *base_of(space))
    assert is_base(space, *base_of(space))
    for point in space.first_points:
        build(space.settings(optuna.trial.FixedTrial(point), *base_of(space))[1])


@pytest.mark.parametrize("name", NAMES)
@given(seed=st.integers(0, 2**32 - 1))
def test_any_point_drawn_is_settings_and_a_model(name, seed):
    _, settings = drawn_by(load_space(name, tune_spaces), seed)
    assert sum(parameter.numel() for parameter in build(settings).parameters()) > 0


def test_a_drawn_model_computes_logits_of_either_form():
    space, forms = load_space("architecture", tune_spaces), {}
    for seed in range(20):
        _, settings = drawn_by(space, seed)
        forms.setdefault(settings.model.form, settings)
    assert {*forms} == {"flat", "pyramid"}
    for settings in forms.values():
        model = build_model(settings.model, num_classes=7, image_size=32)
        assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 7)


def test_the_architecture_asks_for_downsampling_only_in_a_pyramid_and_for_pooling_only_without_one():
    space = load_space("architecture", tune_spaces)
    for seed in range(40):
        params, _ = drawn_by(space, seed)
        of_pyramids = {"downsample_kind", "kernel_size", "num_stages", "widening"} & {*params}
        of_flat_models = {"pooling", "local_depth"} & {*params}
        assert bool(of_pyramids) == (params["form"] == "pyramid") != bool(of_flat_models)


@pytest.mark.parametrize("name", NAMES)
def test_a_space_says_what_it_searches_and_what_it_costs(name):
    module = importlib.import_module(f"tune_spaces.{name}")
    assert "|" in module.__doc__
    assert module.COST


# The first digits of each space's sha256. A sweep started with other files of its space does not resume, so a comment
# or a format is no reason to change one.
SOURCES = {
    "architecture": "a6f5a0602012", "downsampling": "15a0abbffdac", "hierarchy": "97ce0fac61da",
    "mix": "8a6ec960b5a7", "optimizer": "4e4b267ffd6d", "pooling": "6be4630e8cb0",
}  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_the_files_of_a_space_are_those_that_earlier_sweeps_know(name):
    assert load_space(name, tune_spaces).source.startswith(SOURCES[name])
