"""Training that begins with weights from a file, and layers that learn at rates of their own."""

import pytest
import timm
import torch

import volo
from tests.models import recast, save_model
from tests.training.runs import small_run, train, weights
from volo.errors import InputError
from volo.model.build import build_model
from volo.model.weights import read_state_dict
from volo.runs import checkpoint
from volo.runs.checkpoint import export_pt
from volo.runs.records import read_records
from volo.settings.config import build_settings
from volo.training.initial import load_init_weights
from volo.training.optimizer.build import build_optimizer
from volo.training.optimizer.depths import layer_depths
from volo.training.optimizer.schedule import set_learning_rate

SMALL = dict(
    stem_dim=8, layers=(1, 1, 1, 1), embed_dims=(16, 32), stage_heads=(2, 4), patch_size=4, input_size=32
)  # fmt: skip


def finetuning(tmp_path, folder, file, **overrides):
    base = small_run(tmp_path, folder).to_dict()
    optim = dict(init_weights=str(file), layer_decay=0.5, epochs=1, max_steps=2)
    return build_settings({**base, "model": dict(variant="volo_d1", **SMALL)}, {"optim": optim}, overrides)


def peer_file(tmp_path, num_classes: int = 7, img_size: int = 64):
    """A state dict as timm makes it, of a small model with the published names."""
    torch.manual_seed(3)
    peer = timm.models.volo.VOLO(
        (1, 1, 1, 1), img_size=img_size, num_classes=num_classes, patch_size=4, stem_hidden_dim=8,
        embed_dims=(16, 32, 32, 32), num_heads=(2, 4, 4, 4),
    )  # fmt: skip
    torch.save(peer.state_dict(), tmp_path / "peer.pth")
    return tmp_path / "peer.pth"


def test_a_run_begins_with_timms_weights_and_says_what_was_made_to_fit(tmp_path, folder):
    file = peer_file(tmp_path)
    run_dir = train(finetuning(tmp_path, folder, file, optim=dict(lr=1e-9, min_lr=0.0, ema_decay=0.0)))
    trained, before = weights(run_dir), read_state_dict(file)[0]
    assert torch.allclose(trained["network.0.0.attn.v.weight"], before["network.0.0.attn.v.weight"], atol=1e-6)
    assert trained["head.weight"].shape == (2, 32)
    note = next(record["text"] for record in read_records(run_dir) if record["kind"] == "note")
    assert "pos_embed resized from 8x8 to 4x4 patches" in note
    assert "head.weight keeps its initialization: 7 classes in the file, 2 here" in note


def test_a_finished_run_needs_the_file_no_more(tmp_path, folder):
    file = peer_file(tmp_path)
    settings = finetuning(tmp_path, folder, file)
    before = weights(train(settings))
    file.unlink()
    more = build_settings(settings.to_dict(), {"optim": dict(max_steps=3)})
    after = weights(train(more))
    assert not torch.equal(after["raw.norm.weight"], before["raw.norm.weight"])


def test_weights_of_another_model_are_refused_before_anything_is_trained(tmp_path, folder):
    torch.save(volo.create_model("nano").state_dict(), tmp_path / "nano.pth")
    settings = finetuning(tmp_path, folder, tmp_path / "nano.pth")
    with pytest.raises(InputError, match="weights must fit the model entry by entry"):
        train(settings)
    assert not (settings.run_dir / "checkpoints").exists()


@pytest.mark.parametrize("way", ["a file of weights", "a model file", "a teacher"])
def test_whole_numbers_for_weights_are_refused_before_anything_is_trained(tmp_path, folder, way):
    settings, file = small_run(tmp_path, folder), tmp_path / "cast.safetensors"
    recast(save_model(tmp_path / "saved", ("cat", "dog")), file, torch.int32)
    if way == "a file of weights":
        file = file.with_suffix(".pth")
        torch.save(checkpoint.load_model(tmp_path / "cast.safetensors")[0], file)
    given = dict(optim=dict(init_weights=str(file)))
    if way == "a teacher":
        given = dict(teaching=dict(teacher=str(file), distillation=0.5))
    with pytest.raises(InputError, match=r"got .*torch\.int32 for torch\.float32"):
        train(build_settings(settings.to_dict(), given))
    assert not (settings.run_dir / "checkpoints").exists()


NEWEST = "checkpoints/step_00000012"


@pytest.mark.parametrize("source", [".", "best", "last", NEWEST, f"{NEWEST}/model.safetensors", "export.pt"])
def test_whatever_names_a_model_gives_weights_to_begin_with(tmp_path, folder, source):
    before = train(small_run(tmp_path, folder, run=dict(run_name="before")))
    export_pt(checkpoint.find(before), before / "export.pt")
    still = dict(lr=1e-12, min_lr=0.0, epochs=5, max_steps=1, ema_decay=0.0, init_weights=str(before / source))
    after = train(small_run(tmp_path, folder, run=dict(run_name="after"), optim=still))
    expected, description = checkpoint.load_model(checkpoint.find(before / source))
    assert torch.allclose(weights(after)["head.weight"], expected["head.weight"], atol=1e-6)
    note = next(record["text"] for record in read_records(after) if record["kind"] == "note")
    assert "weights of " in note and f"step {description.step}" in note


@pytest.mark.parametrize("names", [("emu", "cat"), ("dog", "cat")])
def test_a_head_is_kept_for_the_same_classes_in_their_order_now_and_starts_afresh_for_others(tmp_path, folder, names):
    """As many classes are not the same classes; nor is the order the same where one is renamed."""
    before = train(small_run(tmp_path, folder, run=dict(run_name="before"), optim=dict(epochs=1)))
    kept = weights(before)["head.weight"]
    model = build_model(small_run(tmp_path, folder).model, num_classes=2, image_size=32)
    fresh = model.head.weight.clone()
    notes = load_init_weights(model, str(before), names)
    if {*names} == {"cat", "dog"}:
        assert torch.equal(model.head.weight, kept[[1, 0]])
    else:
        assert torch.equal(model.head.weight, fresh)
        expected = [
            "trained on other classes: 2 then, 2 now",
            "head keeps its initialization: there are no weights for it",
        ]
        assert notes[1:] == expected


def test_each_layer_learns_at_a_part_of_the_rate_of_the_one_above():
    model = volo.create_model("volo_d1", num_classes=3, img_size=32, **SMALL)
    depths = layer_depths(model)
    assert depths["pos_embed"] == depths["cls_token"] == depths["patch_embed.proj.weight"] == 0
    assert depths["network.0.0.mlp.fc1.weight"] == depths["network.1.proj.weight"] == 1
    assert (depths["network.4.0.norm1.weight"], depths["post_network.1.norm1.weight"]) == (4, 6)
    assert depths["norm.weight"] == depths["head.weight"] == depths["aux_head.bias"] == 7

    settings = build_settings({"optim": dict(layer_decay=0.5)}).resolved().optim
    optimizer = build_optimizer(model, settings)
    set_learning_rate(optimizer, 1.0)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    rates = {names[id(p)]: group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert rates.keys() == {*names.values()}
    assert all(rate == 0.5 ** (7 - depths[name]) for name, rate in rates.items())


def test_a_pyramids_downsampling_learns_as_the_stage_before_it():
    depths = layer_depths(volo.create_model("nano", hierarchical=True))
    assert depths["patch_embed.proj.weight"] == depths["stages.1.pos_embed.weight"] == 0
    assert depths["stages.0.1.norm1.weight"] == depths["downsamples.0.proj.weight"] == 2
    assert (depths["stages.1.blocks.0.norm1.weight"], depths["norm.weight"]) == (3, 5)
