"""What people do with any model of timm's: heads, features, checkpointing of blocks, groups of parameters."""

import pytest
import timm
import torch
from torch.autograd.graph import saved_tensors_hooks

import volo
from tests.model.forms import FORMS

PUBLISHED = dict(stem_dim=8, layers=(2, 1, 1, 1), embed_dims=(16, 32), stage_heads=(2, 4), patch_size=4)
MODELS = [("quickstart", form) for form in FORMS] + [("volo_d1", PUBLISHED)]
every_model = pytest.mark.parametrize(("name", "form"), MODELS, ids=str)


def made(name: str, form: dict, **overrides):
    torch.manual_seed(0)
    return volo.create_model(name, num_classes=7, img_size=32, **form, **overrides)


def pooled(features) -> torch.Tensor:
    return getattr(features, "pooled", features)


@every_model
def test_the_head_of_the_features_is_the_whole(name, form):
    model, images = made(name, form).eval(), torch.randn(2, 3, 32, 32)
    features = model.forward_features(images)
    assert torch.equal(model.forward_head(features), model(images))
    before = model.forward_head(features, pre_logits=True)
    assert before.shape == (2, model.num_features)
    assert torch.equal(before, pooled(features))


@every_model
@pytest.mark.parametrize("num_classes", [3, 0])
def test_a_new_classifier_leaves_the_features(name, form, num_classes):
    model, images = made(name, form).eval(), torch.randn(2, 3, 32, 32)
    features = pooled(model.forward_features(images))
    model.reset_classifier(num_classes)
    assert torch.equal(pooled(model.forward_features(images)), features)
    found = model(images)
    assert found.shape == (2, num_classes or model.num_features)
    if num_classes:
        assert model.get_classifier().out_features == 3
        assert 0 < model.get_classifier().weight.std() < 0.05 and not model.get_classifier().bias.any()
    else:
        assert torch.equal(found, features)


@every_model
def test_what_is_not_decayed_are_norms_biases_and_embeddings(name, form):
    model = made(name, form)
    spared = model.no_weight_decay()
    for parameter_name, parameter in model.named_parameters():
        is_embedding = "pos_embed" in parameter_name or parameter_name.endswith(("class_token", "cls_token"))
        assert (parameter_name in spared) == (parameter.ndim < 2 or is_embedding), parameter_name


def gradients(model, images, seed=3) -> tuple[dict, int]:
    """Of all parameters, and the bytes that the forward pass keeps for them."""
    model.zero_grad()
    kept = []
    with saved_tensors_hooks(lambda tensor: kept.append(tensor.nbytes) or tensor, lambda tensor: tensor):
        torch.manual_seed(seed)
        loss = model(images).square().sum()
    num_bytes = sum(kept)
    loss.backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}, num_bytes


@every_model
@pytest.mark.parametrize("compute", ["as trained on a CPU", "as composed"])
def test_checkpointed_blocks_give_the_same_gradients_in_less_memory(name, form, compute, monkeypatch):
    """Also where blocks drop at random: what they drew is drawn again."""
    if compute == "as composed":
        from volo.model import layers

        monkeypatch.setattr(layers, "is_eager_cpu", lambda x: False)
    model, images = made(name, form, drop_rate=0.1, drop_path_rate=0.2).train(), torch.randn(4, 3, 32, 32)
    expected, much = gradients(model, images)
    model.set_grad_checkpointing()
    found, little = gradients(model, images)
    assert all(torch.equal(found[key], expected[key]) for key in expected)
    assert little < 0.8 * much
    model.set_grad_checkpointing(False)
    assert gradients(model, images)[1] == much


def test_checkpointing_leaves_evaluation_alone(monkeypatch):
    model = made("quickstart", {}).eval()
    model.set_grad_checkpointing()
    monkeypatch.setattr("volo.model.layers.checkpoint", lambda *args, **kwargs: pytest.fail("recomputes"))
    model(torch.randn(1, 3, 32, 32))
    model.train()
    with torch.no_grad():
        model(torch.randn(1, 3, 32, 32))


@every_model
def test_maps_of_the_stages_come_beside_the_features_and_leave_the_model_as_it_was(name, form):
    model, images = made(name, form).eval(), torch.randn(2, 3, 32, 48)
    features, maps = model.forward_intermediates(images)
    assert torch.equal(pooled(features), pooled(model.forward_features(images)))
    assert len(maps) == len(model.stages_of_map)
    for one in maps:
        assert one.ndim == 4 and one.shape[0] == 2 and one.shape[3] * 2 == one.shape[2] * 3
    last = model.forward_intermediates(images, indices=1, norm=True, intermediates_only=True)
    torch.testing.assert_close(last, [model.norm(maps[-1].permute(0, 2, 3, 1)).permute(0, 3, 1, 2)])
    assert torch.equal(model.forward_intermediates(images, indices=[0], intermediates_only=True)[0], maps[0])
    assert not any(module._forward_hooks for module in model.modules())
    for wrong in (0, 9, [9], []):
        with pytest.raises(ValueError, match="indices must name some of the model's"):
            model.forward_intermediates(images, indices=wrong)


def test_maps_of_the_published_model_are_those_of_timms():
    model = made("volo_d1", PUBLISHED).eval()
    peer = timm.models.volo.VOLO(
        (2, 1, 1, 1), img_size=32, num_classes=7, patch_size=4, stem_hidden_dim=8, embed_dims=(16, 32, 32, 32),
        num_heads=(2, 4, 4, 4),
    ).eval()  # fmt: skip
    peer.load_state_dict(model.state_dict())
    images = torch.randn(2, 3, 32, 32)
    for indices in (None, 2, [0, 3]):
        ours, theirs = (
            one.forward_intermediates(images, indices=indices, norm=True, intermediates_only=True)
            for one in (model, peer)
        )
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
