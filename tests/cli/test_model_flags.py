"""The flat flags of the command line, and the form of the model that they make."""

import pytest
import yaml

from tests.test_imports import run_module
from volo.cli import train
from volo.cli.outcome import exit_code
from volo.cli.parse import parse_settings
from volo.errors import InputError


def parsed(*argv: str):
    return parse_settings(argv, prog="train", description="")


def model_of(flags: str):
    return parsed(*flags.split()).model


def test_the_flags_of_each_form_reach_their_settings():
    assert model_of("--pooling cli --class-depth 3").class_depth == 3
    pyramid = model_of("--recipe nano --hierarchical --downsample-kind token")
    assert (pyramid.form, pyramid.variant, pyramid.downsample_kind) == ("pyramid", "nano", "token")
    stages = "--stage-kinds global local --stage-depths 2 3 --stage-embed-dims 16 32 --stage-num-heads 1 2"
    own = model_of(f"--hierarchical --patch_size 8 {stages} --drop-rate=0.1")
    assert (own.stage_kinds, own.stage_depths) == (("global", "local"), (2, 3))
    assert (own.stage_embed_dims, own.stage_num_heads) == ((16, 32), (1, 2))
    assert (own.patch_size, own.drop_rate, own.downsample_kind) == (8, 0.1, "map")


def test_flags_lie_over_the_form_of_a_file(tmp_path):
    (tmp_path / "a.yaml").write_text(yaml.safe_dump({"model": dict(form="pyramid", downsample_kind="token")}))
    file = f"--config {tmp_path / 'a.yaml'}"
    assert model_of(file).downsample_kind == "token"
    assert model_of(f"{file} --hierarchical --model tiny").variant == "tiny"
    assert model_of(f"{file} --downsample-kind map").downsample_kind == "map"
    assert model_of(f"{file} --no-hierarchical --pooling cls").pooling == "cls"
    with pytest.raises(InputError, match="pooling has no effect on a pyramid"):
        model_of(f"{file} --pooling cls")


@pytest.mark.parametrize("flags", ["--pooling cli", "--hierarchical --downsample-kind token --model tiny"])
def test_printed_settings_of_every_form_are_a_settings_file(capsys, tmp_path, flags):
    assert parsed(*flags.split(), "--print-config") is None
    (tmp_path / "a.yaml").write_text(capsys.readouterr().out)
    assert parsed("--config", str(tmp_path / "a.yaml")).resolved() == parsed(*flags.split()).resolved()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--hierarchical --pooling cls", "pooling has no effect on a pyramid, which has stages and pools their mean"),
        ("--hierarchical --pooling mean", "pooling has no effect on a pyramid"),
        ("--hierarchical --embed-dim 64", "got --embed-dim=64; make it a flat model with --no-hierarchical"),
        ("--downsample-kind map", "got --downsample-kind='map'; make it a pyramid with --hierarchical"),
        ("--stage-depths 1 2", "--stage-depths has no effect on a flat model, got --stage-depths=(1, 2)"),
        ("--class-depth 2", "--class-depth has no effect without pooling=cli"),
        ("--hierarchical --stage-depths 1 1 1 1 1", "give all four"),
    ],
)
def test_flags_of_the_other_form_end_with_code_2_and_one_message(capsys, flags, message):
    assert exit_code(train.main, flags.split()) == 2
    errors = capsys.readouterr().err
    assert message in errors
    assert errors.startswith("error: ")


def test_a_contradiction_of_forms_is_refused_before_torch_or_ray_is_loaded(tmp_path):
    code, heavy, errors = run_module("jobs.train", tmp_path / "loaded.json", "--hierarchical", "--pooling", "cls")
    assert (code, heavy) == (2, set()), errors
