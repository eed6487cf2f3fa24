"""Files of weights: published, timm's, our own, and what must be refused."""

import argparse
import os
import pickle

import pytest
import safetensors.torch
import timm
import torch
from torch.optim.swa_utils import AveragedModel

import volo
from volo.errors import InputError
from volo.model import weights
from volo.model.weights import read_state_dict
from volo.runs.model_file import is_model_file

SMALL = dict(stem_dim=8, layers=(1, 1, 1, 1), embed_dims=(16, 32), stage_heads=(2, 4))


def small(num_classes: int = 5, img_size: int = 32, seed: int = 0):
    torch.manual_seed(seed)
    return volo.create_model("volo_d1", num_classes=num_classes, img_size=img_size, **SMALL).eval()


def load_weights(model, path):
    found, notes = read_state_dict(path)
    return [*notes, *weights.load_weights(model, found, path)]


def check_weights(model, path):
    weights.check_weights(model, read_state_dict(path)[0], path)


def same(one, other) -> bool:
    return all(torch.equal(other.state_dict()[name], tensor) for name, tensor in one.state_dict().items())


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"state_dict": s}, lambda s: {"epoch": 3, "model": s}])
def test_a_pth_loads_bare_or_wrapped(tmp_path, wrap):
    source, target = small(), small(seed=1)
    torch.save(wrap(source.state_dict()), tmp_path / "weights.pth")
    assert load_weights(target, tmp_path / "weights.pth") == []
    assert same(source, target)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model.", "module._orig_mod.", "_orig_mod.module.model."])
def test_the_prefixes_of_wrappers_are_dropped(tmp_path, prefix):
    torch.save({prefix + name: tensor for name, tensor in small().state_dict().items()}, tmp_path / "w.pth.tar")
    assert load_weights(target := small(seed=1), tmp_path / "w.pth.tar") == [] and same(small(), target)


def test_a_prefix_of_some_entries_only_belongs_to_their_names(tmp_path):
    state = small().state_dict()
    torch.save({**state, "module.extra": torch.zeros(2)}, tmp_path / "w.pth")
    with pytest.raises(InputError, match=r"not of this model: module\.extra"):
        load_weights(small(), tmp_path / "w.pth")


def test_pytorchs_averaged_model_loads_without_its_counter(tmp_path):
    torch.save(AveragedModel(small()).state_dict(), tmp_path / "w.pth")
    assert load_weights(target := small(seed=1), tmp_path / "w.pth") == [] and same(small(), target)


def test_a_training_checkpoint_of_timm_loads_with_its_average_and_runs_nothing(tmp_path):
    """As timm.utils.CheckpointSaver writes it: the command line beside the tensors, as an argparse.Namespace."""
    model, average = small(), small(seed=2)
    optimizer = torch.optim.AdamW(model.parameters())
    saver = timm.utils.CheckpointSaver(
        model, optimizer, args=argparse.Namespace(model="volo_d1", lr=1e-3, mean=None), checkpoint_dir=str(tmp_path),
        model_ema=average, recovery_dir=str(tmp_path),
    )  # fmt: skip
    saver.save_checkpoint(epoch=3, metric=71.5)
    target = small(seed=1)
    assert load_weights(target, tmp_path / "last.pth.tar") == [
        "took state_dict_ema, of the file's state_dict_ema, state_dict"
    ]
    assert same(average, target)


@pytest.mark.parametrize("heads", [("head", "aux_head"), ("aux_head",)])
def test_a_backbone_without_heads_loads_and_they_start_afresh(tmp_path, heads):
    source, target = small(), small(seed=1)
    fresh = {name: tensor.clone() for name, tensor in target.state_dict().items()}
    state = {name: tensor for name, tensor in source.state_dict().items() if name.split(".")[0] not in heads}
    torch.save(state, tmp_path / "w.pth")
    notes = [f"{head} keeps its initialization: there are no weights for it" for head in sorted(heads)]
    assert load_weights(target, tmp_path / "w.pth") == notes
    for name, tensor in target.state_dict().items():
        assert torch.equal(tensor, fresh[name] if name.split(".")[0] in heads else state[name])


def test_half_a_head_is_no_backbone(tmp_path):
    state = small().state_dict()
    del state["head.bias"]
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(InputError, match=r"missing: head\.bias"):
        load_weights(small(), tmp_path / "w.pth")


def test_safetensors_load(tmp_path):
    contiguous = {name: tensor.contiguous() for name, tensor in small().state_dict().items()}
    safetensors.torch.save_file(contiguous, tmp_path / "w.safetensors")
    assert load_weights(target := small(seed=1), tmp_path / "w.safetensors") == [] and same(small(), target)


def test_position_embedding_is_resized_and_heads_of_other_classes_start_afresh(tmp_path):
    source, target = small(num_classes=7, img_size=64), small(seed=1)
    head = target.head.weight.clone()
    torch.save(source.state_dict(), tmp_path / "w.pth")
    notes = load_weights(target, tmp_path / "w.pth")
    fresh = ["aux_head.bias", "aux_head.weight", "head.bias", "head.weight"]
    assert [note.split()[0] for note in notes] == [*fresh, "pos_embed"]
    assert notes[-1] == "pos_embed resized from 4x4 to 2x2 patches"
    assert torch.equal(target.head.weight, head)
    assert torch.equal(target.network[0][0].attn.v.weight, source.network[0][0].attn.v.weight)


def test_other_entries_are_refused_with_the_list_and_nothing_is_loaded(tmp_path):
    state = small().state_dict()
    state["extra.weight"] = torch.zeros(2)
    state["cls_token"] = torch.zeros(1, 1, 3)
    del state["norm.bias"]
    torch.save(state, tmp_path / "w.pth")
    target = small(seed=1)
    said = (
        r"w.pth with missing: norm.bias; not of this model: extra.weight; of another shape: "
        r"cls_token \(1, 1, 3\) for \(1, 1, 32\); choose the --model"
    )
    for act in (load_weights, check_weights):
        with pytest.raises(InputError, match=said):
            act(target, tmp_path / "w.pth")
    assert same(small(seed=1), target)


@pytest.mark.parametrize("dtype", [torch.int32, torch.uint8, torch.bool, torch.complex64])
def test_weights_that_are_no_floating_point_numbers_are_refused_and_nothing_is_loaded(dtype):
    model = volo.create_model("volo_d1", num_classes=3, layers=(1, 1, 1, 1))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    named = rf"of another type: .*network\.0\.0\.attn\.v\.weight of {dtype} for torch\.float32"
    given = {name: tensor.to(dtype) for name, tensor in before.items()}
    assert len(weights.not_floating(given, before)) == len([name for name in before if "num_batches" not in name])
    only = before | {"network.0.0.attn.v.weight": given["network.0.0.attn.v.weight"]}
    with pytest.raises(InputError, match=named):
        weights.load_weights(model, only, "x.pth")
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("name", ["pipe.pth", "pipe.safetensors"])
def test_a_pipe_is_refused_at_once(tmp_path, name):
    os.mkfifo(tmp_path / name)
    assert not is_model_file(tmp_path / name)
    with pytest.raises(InputError, match=rf"a file of weights must be .*, got .*{name} \(no file: .*pipe, socket or"):
        read_state_dict(tmp_path / name)


def test_a_pickle_with_code_in_it_is_refused_and_runs_nothing(tmp_path):
    class Code:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "was-here"),)

    (tmp_path / "w.pth").write_bytes(pickle.dumps({"state_dict": Code()}))
    torch.save({"state_dict": Code()}, tmp_path / "zip.pth")
    for name in ("w.pth", "zip.pth"):
        with pytest.raises(InputError, match=r"must be a \.safetensors, or a complete \.pth .* nothing in it was run"):
            read_state_dict(tmp_path / name)
    assert not (tmp_path / "was-here").exists()


@pytest.mark.parametrize("content", [b"", b"not a model", b"\x80\x02}q\x00."])
def test_what_is_no_file_of_weights_is_refused(tmp_path, content):
    for name in ("w.pth", "w.safetensors"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match="a file of weights must"):
            read_state_dict(tmp_path / name)
    with pytest.raises(InputError, match="No such file"):
        read_state_dict(tmp_path / "none.pth")


@pytest.mark.parametrize("in_chans", range(1, 14))
@pytest.mark.parametrize("num_before", [1, 3])
def test_an_input_convolution_is_adapted_as_timm_does(num_before, in_chans):
    weight = torch.randn(8, num_before, 3, 3, generator=torch.Generator().manual_seed(0))
    expected = timm.models.adapt_input_conv(in_chans, weight.clone(), num_before)
    torch.testing.assert_close(weights.adapted(weight, in_chans), expected)
    half = weights.adapted(weight.half(), in_chans)
    assert half.dtype == torch.float16 and torch.isfinite(half).all()


@pytest.mark.parametrize(
    "form", [dict(name="nano"), dict(name="nano", hierarchical=True), dict(name="volo_d1", **SMALL)], ids=str
)
@pytest.mark.parametrize("in_chans", [1, 4, 13])
def test_a_model_for_colors_gives_weights_to_one_for_other_channels(tmp_path, form, in_chans):
    """Gray images give what the same images in color gave."""
    source = volo.create_model(**form, num_classes=3, img_size=32).eval()
    target = volo.create_model(**form, num_classes=3, img_size=32, in_chans=in_chans).eval()
    torch.save(source.state_dict(), tmp_path / "w.pth")
    first = weights.input_weight(source)
    assert load_weights(target, tmp_path / "w.pth") == [f"{first} adapted from 3 to {in_chans} channels"]
    gray = torch.randn(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        found, expected = target(gray.expand(-1, in_chans, -1, -1)), source(gray.expand(-1, 3, -1, -1))
    if in_chans == 1:
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert found.shape == expected.shape


def test_weights_for_five_channels_are_not_guessed_for_others():
    five, gray = (volo.create_model("nano", num_classes=3, in_chans=number) for number in (5, 1))
    with pytest.raises(InputError, match=r"of another shape: .*; choose the --model they were made for, and its --in"):
        weights.load_weights(gray, five.state_dict(), "w.pth")
