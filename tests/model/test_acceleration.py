"""Our outlook attention inside a model of timm's: the same model, before and after."""

import copy

import pytest
import torch
import torch.nn.functional as F
from timm.models.volo import VOLO
from timm.models.volo import OutlookAttention as TimmOutlookAttention
from timm.models.volo import Outlooker as TimmOutlooker
from torch import nn

import volo
from volo.ops import accelerate


@pytest.fixture
def peer():
    torch.manual_seed(0)
    """As volo_d1, with two Outlookers and narrow."""
    sizes = dict(layers=(2, 1, 1, 1), embed_dims=(24, 48, 48, 48), num_heads=(2, 4, 4, 4))
    return VOLO(img_size=32, num_classes=10, **sizes)


def of_kind(model: nn.Module, kind: type) -> list[nn.Module]:
    return [module for module in model.modules() if isinstance(module, kind)]


def gradients(model: nn.Module, images: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    F.cross_entropy(model(images), torch.arange(len(images))).backward()
    return {name: weight.grad for name, weight in model.named_parameters()}


def test_logits_and_gradients_stay_and_so_do_parameters_names_and_mode(peer):
    original, images = copy.deepcopy(peer).eval(), torch.randn(2, 3, 32, 32)
    parameters = dict(peer.named_parameters())
    assert accelerate(peer.eval()) is peer
    assert not of_kind(peer, TimmOutlookAttention)
    ours = of_kind(peer, volo.OutlookAttention)
    assert len(ours) == 2 and not any(module.training for module in ours)
    assert list(peer.state_dict()) == list(original.state_dict())
    assert all(weight is parameters[name] for name, weight in peer.named_parameters())
    torch.testing.assert_close(peer(images), original(images), rtol=0, atol=1e-4)
    found, expected = gradients(peer, images), gradients(original, images)
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-3, atol=1e-4, msg=name)


def test_an_optimizer_made_before_trains_the_model_after(peer):
    optimizer = torch.optim.AdamW(peer.parameters(), lr=1e-3)
    accelerate(peer)
    images, labels = torch.randn(8, 3, 32, 32), torch.arange(8) % 4
    losses = []
    for _ in range(30):
        losses.append(F.cross_entropy(peer(images), labels))
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize(
    "options", [dict(stride=2), dict(qkv_bias=True), dict(attn_drop=0.3), dict(num_heads=4)], ids=str
)
def test_a_block_keeps_its_options(options):
    torch.manual_seed(0)
    peer = TimmOutlooker(16, 3, 1, **(dict(num_heads=2) | options))
    original, x = copy.deepcopy(peer), torch.randn(2, 6, 5, 16)
    accelerate(peer)
    for is_training in (True, False):
        if is_training and "attn_drop" in options:
            assert not torch.equal(peer.train()(x), peer(x))  # it is drawn
            continue
        expected = original.train(is_training)(x)
        torch.testing.assert_close(peer.train(is_training)(x), expected, rtol=0, atol=1e-5)


def test_a_layer_alone_and_one_that_stands_in_two_places_are_replaced_once():
    layer = TimmOutlookAttention(8, 2)
    alone = accelerate(layer)
    assert isinstance(alone, volo.OutlookAttention) and alone.v is layer.v
    twice = accelerate(nn.Sequential(layer, nn.Identity(), layer))
    assert isinstance(twice[0], volo.OutlookAttention) and twice[0] is twice[2]


def test_what_cannot_be_replaced_is_refused_and_left_as_it_is():
    with pytest.raises(ValueError, match=r"must contain outlook attention of timm .*, got Linear; models of volo"):
        accelerate(nn.Linear(2, 2))
    with pytest.raises(ValueError, match="got VOLO; models of volo"):
        accelerate(volo.create_model("quickstart", num_classes=2))
    model = nn.Sequential(TimmOutlookAttention(8, 2), TimmOutlookAttention(8, 2))
    model[1].register_forward_hook(lambda *_: None)
    with pytest.raises(ValueError, match=r"must have no hooks, .* got some on 1; register them after"):
        accelerate(model)
    model[1] = TimmOutlookAttention(8, 2)
    model[1].scale = 1.0
    with pytest.raises(ValueError, match=r"1 / sqrt\(dim / num_heads\), got scale=1\.0 in 1; leave"):
        accelerate(model)
    del model[1].proj
    with pytest.raises(ValueError, match=r"must be as published, got 1 without that: .*proj"):
        accelerate(model)
    assert isinstance(model[0], TimmOutlookAttention)
