"""A flat model has a pooling, a pyramid has stages: what can be written down, and what becomes of it."""

import json

import pytest
import yaml

from volo.errors import InputError
from volo.model.build import build_model
from volo.runs.model_file import Description
from volo.settings.config import Settings, build_settings, merge
from volo.settings.differences import differences
from volo.settings.model import FlatModel, PyramidModel
from volo.settings.recipes import recipe_settings

FORMS = [
    dict(form="flat", pooling="mean"),
    dict(pooling="cls"),
    dict(pooling="cli", class_depth=1),
    dict(form="pyramid", downsample_kind="map"),
    dict(form="pyramid", downsample_kind="token", stage_depths=(1, 2), stage_kinds=("local", "global")),
    dict(variant="volo_d2", input_size=64),
]


def model_of(*layers: dict):
    return build_settings(*({"model": layer} for layer in layers)).model


def test_without_a_word_a_model_is_flat_and_pools_the_mean():
    model = build_settings().model
    assert (model.form, model.pooling) == ("flat", "mean")
    assert model_of(dict(form="pyramid")).downsample_kind == "map"


@pytest.mark.parametrize("values", FORMS)
def test_every_form_comes_back_from_yaml_and_from_a_checkpoint(values):
    two_stages = dict(stage_embed_dims=(8, 16), stage_num_heads=(1, 2)) if "stage_kinds" in values else {}
    resolved = build_settings({"model": {"variant": "quickstart", **values, **two_stages}}).resolved()
    assert resolved.resolved() == resolved
    assert build_settings(yaml.safe_load(resolved.to_yaml())).to_dict() == resolved.to_dict()
    description = Description(resolved, ("cat", "dog"), "hash", 1, 1)
    kept = json.loads(json.dumps(description.to_metadata()))
    assert Description.from_metadata(kept) == description
    assert differences(resolved, Settings.model_validate(resolved.to_dict())) == {}


def test_resolving_writes_in_what_the_variant_and_the_form_have():
    assert model_of(dict(pooling="cli")).resolved().class_depth == 2
    assert model_of(dict()).resolved().class_depth is None
    pyramid = model_of(dict(form="pyramid", variant="tiny")).resolved()
    assert len(pyramid.stage_depths) == len(pyramid.stage_embed_dims) == len(pyramid.stage_kinds) > 1


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (dict(form="pyramid", pooling="mean"), "pooling has no effect on a pyramid"),
        (dict(form="pyramid", embed_dim=64), "embed_dim has no effect on a pyramid"),
        (dict(downsample_kind="map"), "downsample_kind has no effect on a flat model, got downsample_kind='map'; make"),
        (dict(stage_depths=[1, 2]), "stage_depths has no effect on a flat model"),
        (dict(form="round"), "model.form must be one of flat, pyramid, published, got 'round'"),
        (dict(form="pyramid", width=3), "model.width is no setting, got model.width=3; known here: downsample_kind"),
        (dict(pooling="max"), "model.pooling must be 'mean', 'cls' or 'cli', got 'max'"),
        (dict(class_depth=2), "class_depth has no effect without pooling=cli, got class_depth=2, pooling=mean"),
        (dict(pooling="cli", class_depth=0), "model.class_depth must be greater than or equal to 1, got 0"),
        (dict(pooling="cls", global_depth=0), "pooling=cls needs a global block"),
        (dict(local_depth=0, kernel_size=5), "kernel_size has no effect without a local block, got kernel_size=5"),
        (
            dict(form="pyramid", stage_kinds=["global"], stage_depths=[1], stage_embed_dims=[8], stage_num_heads=[1],
                 downsample_kind="token"),
            "downsample_kind has no effect on a single stage",
        ),
        (dict(form="pyramid", stage_depths=[1, 1, 1, 1, 1]), "5 stage_depths"),
        (dict(form="pyramid", stage_kinds=[]), "must have one value for each stage, got 0 stage_kinds"),
        (
            dict(form="pyramid", stage_kinds=["local", "global"], stage_depths=[1, 1], stage_embed_dims=[8, 9],
                 stage_num_heads=[2, 2]),
            "stage_embed_dims must be divisible by stage_num_heads stage by stage, got 9 and 2 in stage 2",
        ),
        (dict(form="pyramid", stage_depths=[1, 0]), "model.stage_depths must be greater than or equal to 1, got 0"),
        (dict(form="pyramid", stage_kinds=["outer"]), "model.stage_kinds must be 'local' or 'global', got 'outer'"),
    ],
)  # fmt: skip
def test_a_mixture_cannot_be_written_down(values, message):
    with pytest.raises(InputError) as refused:
        model_of(values)
    assert message in str(refused.value)


def test_a_kernel_for_the_cpu_is_refused_on_a_gpu():
    with pytest.raises(InputError, match="outlook_op=cpu computes on the CPU only, got device=cuda"):
        build_settings({"model": {"outlook_op": "cpu"}, "run": {"device": "cuda"}})


def test_a_kernel_for_a_gpu_is_refused_on_the_cpu():
    with pytest.raises(InputError, match="outlook_op=fused computes on the GPU only, got device=cpu"):
        build_settings({"model": {"outlook_op": "fused"}, "run": {"device": "cpu"}})


def test_another_form_on_top_leaves_behind_what_belongs_to_the_one_below():
    flat = dict(form="flat", pooling="cli", embed_dim=48, drop_rate=0.1)
    over = model_of(flat, dict(form="pyramid", downsample_kind="token"))
    assert isinstance(over, PyramidModel)
    assert (over.downsample_kind, over.drop_rate) == ("token", 0.1)
    back = model_of(flat, dict(form="pyramid"), dict(form="flat"))
    assert isinstance(back, FlatModel)
    assert (back.pooling, back.embed_dim, back.drop_rate) == ("mean", None, 0.1)
    assert model_of(flat, dict(form="flat")).pooling == "cli"
    assert merge({"model": flat}, {"model": {"drop_rate": 0.2}})["model"] == flat | {"drop_rate": 0.2}


def test_a_setting_of_one_form_over_another_form_is_refused():
    with pytest.raises(InputError, match="pooling has no effect on a pyramid"):
        model_of(dict(form="pyramid"), dict(pooling="cls"))


@pytest.mark.parametrize(
    ("recipe", "model", "name"),
    [
        (None, dict(), "cifar100-nano"),
        (None, dict(pooling="cli"), "cifar100-nano-cli"),
        (None, dict(form="pyramid", variant="tiny"), "cifar100-tiny-pyramid-map"),
        ("nano", dict(), "nano"),
        ("nano", dict(pooling="cls"), "nano-cls"),
        ("nano", dict(form="pyramid", downsample_kind="token"), "nano-pyramid-token"),
    ],
)
def test_runs_of_different_forms_have_different_names(recipe, model, name):
    settings = build_settings(recipe_settings(recipe) if recipe else {}, {"model": model})
    assert settings.resolved().run.run_name == settings.resolved().resolved().run.run_name == name


@pytest.mark.parametrize("values", FORMS[:4])
def test_the_model_that_is_built_is_the_one_that_is_described(values):
    settings = model_of({"variant": "quickstart", **values})
    model = build_model(settings, num_classes=3, image_size=32)
    if settings.form == "pyramid":
        assert len(model.downsamples) == len(settings.resolved().stage_kinds) - 1
    else:
        assert model.pooling == settings.pooling
        assert len(getattr(model, "class_blocks", ())) == (settings.class_depth or 0)
