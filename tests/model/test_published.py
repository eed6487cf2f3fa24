"""The published family against timm, which agrees with the published code to 8e-7."""

import pytest
import timm
import torch

import volo
from volo.errors import InputError
from volo.model.published import PublishedVOLO

SMALL = dict(stem_dim=8, layers=(2, 1, 1, 1), embed_dims=(16, 32), stage_heads=(2, 4))
SIZES = ["d1", "d2", "d3", "d4", "d5"]


def timm_model(size: str, img_size: int = 224, **overrides):
    return timm.create_model(f"volo_{size}_224", pretrained=False, img_size=img_size, **overrides).eval()


def assert_same_logits(size: str, img_size: int = 224) -> None:
    torch.manual_seed(0)
    peer = timm_model(size, img_size)
    ours = volo.create_model(f"volo_{size}", img_size=img_size).eval()
    ours.load_state_dict(peer.state_dict(), strict=True)
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in peer.parameters())
    images = torch.randn(1, 3, img_size, img_size)
    with torch.inference_mode():
        expected, found = peer(images), ours(images)
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_logits_of_d1_equal_timms_with_timms_weights():
    assert_same_logits("d1")


@pytest.mark.slow
@pytest.mark.parametrize("size", ["d2", "d3", "d4", "d5"])
def test_logits_of_the_other_sizes_equal_timms(size):
    assert_same_logits(size)


def test_logits_of_d1_at_384_pixels_equal_timms():
    assert_same_logits("d1", 384)


@pytest.mark.parametrize("size", SIZES)
def test_names_shapes_and_number_of_parameters_are_timms(size):
    with torch.device("meta"):
        peer, ours = timm_model(size), volo.create_model(f"volo_{size}")
    assert {k: v.shape for k, v in ours.state_dict().items()} == {k: v.shape for k, v in peer.state_dict().items()}


def test_without_classes_both_give_the_same_features():
    torch.manual_seed(0)
    peer = timm_model("d1", num_classes=0, img_size=64)
    ours = volo.create_model("volo_d1", num_classes=0, img_size=64).eval()
    ours.load_state_dict(peer.state_dict(), strict=True)
    images = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        expected, found = peer(images), ours(images)
    assert found.shape == (1, 384)
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_gradients_equal_timms():
    torch.manual_seed(0)
    peer = timm_model("d1", num_classes=10, img_size=64)
    ours = volo.create_model("volo_d1", num_classes=10, img_size=64).eval()
    ours.load_state_dict(peer.state_dict())
    images = torch.randn(1, 3, 64, 64)
    for model in (peer, ours):
        model(images).square().sum().backward()
    expected = {name: parameter.grad for name, parameter in peer.named_parameters()}
    for name, parameter in ours.named_parameters():
        scale = expected[name].abs().max()
        assert (parameter.grad - expected[name]).abs().max() <= 1e-4 * scale + 1e-6, name


@pytest.mark.parametrize("patch_size", [2, 4, 8])
@pytest.mark.parametrize("size", [(32, 32), (33, 47), (8, 9)])
def test_small_patches_and_any_image_of_a_patch_work(patch_size, size):
    model = volo.create_model("volo_d1", num_classes=5, img_size=32, patch_size=patch_size, **SMALL).eval()
    assert model(torch.randn(2, 3, *size)).isfinite().all()


def test_images_are_enlarged_inside_where_asked():
    torch.manual_seed(0)
    model = volo.create_model("volo_d1", num_classes=5, img_size=32, input_size=64, **SMALL).eval()
    assert model.pos_embed.shape[1:3] == (4, 4)
    images = torch.rand(2, 3, 32, 32)
    large = torch.nn.functional.interpolate(images, size=(64, 64), mode="bicubic")
    assert torch.allclose(model(images), model(large), atol=1e-6)


@pytest.mark.parametrize("reaches", [True, False])
def test_stochastic_depth_reaches_the_outlookers_unless_switched_off(reaches):
    model = PublishedVOLO(5, 32, drop_path_rate=0.4, outlooker_drop_path=reaches, **SMALL)
    rates = [getattr(block.drop_path, "p", 0.0) for stage in (0, 2, 3, 4) for block in model.network[stage]]
    assert rates == pytest.approx([0.0, 0.1 * reaches, 0.2, 0.3, 0.4])


def test_one_graph_to_torch_compile():
    model = volo.create_model("volo_d1", num_classes=5, img_size=32, **SMALL)
    images = torch.randn(2, 3, 32, 32)
    compiled = torch.compile(model.eval(), backend="aot_eager", fullgraph=True)
    assert torch.allclose(compiled(images), model(images), atol=1e-5)


@pytest.mark.parametrize(
    ("overrides", "rule"),
    [
        (dict(hierarchical=True), "the form must be one that volo_d1 has"),
        (dict(stem_channels=(8,)), "stem_channels has no effect on a published model"),
        (dict(pooling="mean"), "pooling has no effect on a published model"),
        (dict(patch_size=3), "patch_size must be even in a published model, got 3"),
        (dict(embed_dims=(16, 30), stage_heads=(2, 4)), "embed_dims must be divisible by stage_heads"),
        (dict(input_size=4), "input_size must be at least patch_size"),
    ],
)
def test_what_a_published_model_cannot_have_is_refused(overrides, rule):
    with pytest.raises(InputError, match=rule):
        volo.create_model("volo_d1", **overrides)


def test_sizes_that_a_patch_or_the_downsampling_does_not_divide_are_padded_below_and_right():
    torch.manual_seed(0)
    model = volo.create_model("volo_d1", num_classes=5, img_size=32, patch_size=8, **SMALL).eval()
    images = torch.randn(1, 3, 33, 41)
    padded = torch.nn.functional.pad(images, (0, 7, 0, 7))
    fine = model.patch_embed(images)
    assert torch.equal(fine, model.patch_embed(padded)) and fine.shape[1:3] == (5, 6)
    odd = torch.nn.functional.pad(fine, (0, 0, 0, 0, 0, 1))
    assert torch.allclose(model.network[1](fine), model.network[1](odd), atol=1e-6)


def test_an_input_size_of_0_is_not_taken_for_none():
    with pytest.raises(ValueError, match="images must be at least one patch, got 0x0 pixels"):
        PublishedVOLO(num_classes=3, img_size=32, input_size=0, **SMALL)
