from pathlib import Path

import pytest

from volo.settings.config import ResolvedSettings, build_settings
from volo.settings.differences import flatten
from volo.settings.recipes import RECIPES, recipe_settings
from volo.settings.yaml_files import read_yaml

# Not derived: without a value each of these has a meaning of its own.
OPEN = {
    "recipe",
    "data.train_images",
    "augment.crop_area",
    "augment.mix_prob",
    "optim.max_steps",
    "optim.patience",
    "optim.use_amp",
    "optim.autocast_dtype",
    "optim.init_weights",
    "optim.freeze",
    "teaching.teacher",
    "run.seeds",
    "run.checkpoint_every",
    "run.resume_path",
    "run.num_workers",
    "run.num_readers",
    "run.address",
}
OF_THE_FORM = {
    "flat": {"model.class_depth"},
    "pyramid": set(),
    "published": {"model.stem_channels", "model.stem_depth", "model.input_size"},
}
OF_THE_DATA = {"shapes": {"data.data_dir"}, "imagefolder": {"data.val_fraction"}}
EARLIER = sorted(Path(__file__).with_name("earlier").glob("*.yaml"))


def open_in(resolved: ResolvedSettings) -> set[str]:
    """Names of the settings that are None, but for those that may be."""
    found = {name for name, value in flatten(resolved.to_dict()).items() if value is None}
    return found - OPEN - OF_THE_FORM[resolved.model.form] - OF_THE_DATA.get(resolved.data.dataset, set())


@pytest.mark.parametrize("name", RECIPES)
def test_resolving_a_recipe_leaves_no_derived_setting_open(name):
    resolved = build_settings(recipe_settings(name)).resolved()
    assert open_in(resolved) == set()
    assert ResolvedSettings.model_validate(resolved.model_dump()) == resolved  # as the types of all fields promise


@pytest.mark.parametrize("dataset", ["cifar10", "cifar100", "imagefolder", "shapes"])
@pytest.mark.parametrize(
    "model",
    [{}, {"pooling": "cli"}, {"form": "pyramid"}, {"variant": "tiny", "stem_channels": []},
     {"variant": "volo_d1", "input_size": 64}],
    ids=str,
)  # fmt: skip
def test_resolving_any_form_and_data_set_leaves_no_derived_setting_open(dataset, model):
    values = {"model": model, "data": {"dataset": dataset}}
    for augment in ({}, {"mixup_alpha": 0.2}):
        resolved = build_settings(values, {"augment": augment}).resolved()
        assert open_in(resolved) == set()
        assert (resolved.augment.mix_prob is None) == (not augment)
        assert ResolvedSettings.model_validate(resolved.model_dump()) == resolved


def test_resolved_settings_keep_what_was_given():
    given = {"data": dict(mean=[0.1, 0.2, 0.3]), "augment": dict(crop_padding=0), "optim": dict(warmup_epochs=0)}
    resolved = build_settings(given, {"run": dict(run_name="mine")}).resolved()
    assert (resolved.data.mean, resolved.augment.crop_padding) == ((0.1, 0.2, 0.3), 0)
    assert (resolved.optim.warmup_epochs, resolved.run.run_name) == (0, "mine")


@pytest.mark.parametrize("path", EARLIER, ids=lambda path: path.stem)
def test_the_config_of_a_run_of_an_earlier_version_loads_and_means_the_same(path):
    resolved = build_settings(read_yaml(path)).resolved()
    assert open_in(resolved) == set()
    assert (resolved.model.form, resolved.model.embed_dim) == ("flat", 64)
    assert (resolved.data.val_fraction, resolved.augment.crop_padding, resolved.optim.lr) == (0.1, 2, 4e-3)
    assert resolved.optim.warmup_epochs == pytest.approx(resolved.optim.epochs / 20)
    assert str(resolved.run_dir) == "/outputs/quickstart"
