import pytest
import torch
import torch.nn.functional as F
from timm.models.volo import OutlookAttention as TimmOutlookAttention

import volo
from volo.model.embedding import PatchEmbeddingConv, resize_position_embedding
from volo.model.flat import VOLO
from volo.model.outlook import OutlookAttention, OutlookerBlock


def test_an_image_smaller_than_a_patch_is_refused():
    with pytest.raises(ValueError, match="images must be at least one patch, got 3x40"):
        volo.create_model("nano")(torch.randn(1, 3, 3, 40))


@pytest.mark.parametrize(
    ("overrides", "rule"),
    [
        (dict(embed_dim=100, num_heads=3), "embed_dim must be divisible by num_heads, got embed_dim=100, num_heads=3"),
        (dict(kernel_size=4), "kernel_size must be odd"),
        (dict(outlook_stride=5), "outlook_stride must not exceed kernel_size"),
        (dict(patch_size=3), "patch_size must be divisible by 2 for every level of the stem"),
        (dict(width=3), "model.width is no setting"),
        (dict(downsample_kind="map"), "downsample_kind has no effect on a flat model"),
        (dict(pooling="cls", global_depth=0), "pooling=cls needs a global block"),
    ],
)
def test_values_that_do_not_fit_are_refused_with_rule_and_values(overrides, rule):
    with pytest.raises(ValueError, match=rule):
        volo.create_model("nano", **overrides)


def test_padding_below_and_right_does_not_move_the_patches():
    embed = PatchEmbeddingConv(4, 8)
    image = torch.randn(1, 3, 10, 9)
    assert embed(image).shape == (1, 3, 3, 8)
    assert torch.allclose(embed(image)[:, :2, :2], embed(image[..., :8, :8]), atol=1e-6)
    with pytest.raises(ValueError, match="image sizes must be divisible by patch_size if pad is off"):
        PatchEmbeddingConv(4, 8, pad=False)(image)


def test_the_plain_embedding_is_a_linear_map_of_each_patch():
    embed = PatchEmbeddingConv(4, 8)
    image = torch.randn(1, 3, 8, 8)
    patch = image[0, :, 4:8, 0:4].flatten()
    expected = embed.proj.weight.flatten(1) @ patch + embed.proj.bias
    assert torch.allclose(embed(image)[0, 1, 0], expected, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "rule"),
    [
        (dict(pooling="max"), "pooling must be mean, cls or cli, got 'max'"),
        (dict(pooling="cls", global_depth=0), "a class token needs a block that processes it, got pooling='cls'"),
        (dict(pooling="cli", class_depth=0), "a class token needs a block that processes it, got pooling='cli'"),
        (dict(img_size=3), "img_size must be at least patch_size, got img_size=3, patch_size=4"),
    ],
)
def test_the_module_itself_refuses_what_cannot_work(arguments, rule):
    with pytest.raises(ValueError, match=rule):
        VOLO(10, **arguments)


@pytest.mark.parametrize("pooling", ["cls", "cli"])
def test_a_class_token_holds_all_that_the_head_reads(pooling):
    torch.manual_seed(0)
    model = volo.create_model("quickstart", pooling=pooling).eval()
    images = torch.randn(2, 3, 32, 32)
    before = model(images)
    with torch.no_grad():
        model.class_token.normal_()
    after = model(images)
    assert not torch.allclose(before, after, atol=1e-3)
    assert not torch.allclose(after[0], after[1], atol=1e-6)


def test_the_position_embedding_is_for_patches_only_so_without_it_their_order_does_not_matter():
    torch.manual_seed(0)
    model = VOLO(9, patch_size=4, embed_dim=32, num_heads=2, local_depth=0, global_depth=2, pooling="cls").eval()
    torch.nn.init.normal_(model.pos_embed.weight)
    image = torch.randn(1, 3, 32, 32)
    turned = image.reshape(1, 3, 8, 4, 32).flip(2).reshape(1, 3, 32, 32)  # rows of patches
    assert not torch.allclose(model(image), model(turned), atol=1e-3)
    torch.nn.init.zeros_(model.pos_embed.weight)
    assert torch.allclose(model(image), model(turned), atol=1e-5)


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_outlook_attention_equals_the_published_code(stride):
    torch.manual_seed(0)
    module = OutlookAttention(12, 3, stride=stride, op="reference").double()
    x = torch.randn(2, 7, 6, 12, dtype=torch.float64)
    assert torch.allclose(module(x), published(module, x), atol=1e-12)


def published(module, x):
    """Section 3.1 of arXiv 2106.13112 step by step, by unfold and fold."""
    B, H, W, C = x.shape
    K, S, heads = module.kernel_size, module.stride, module.num_heads
    h, w = -(-H // S), -(-W // S)
    v = F.unfold(module.v(x).permute(0, 3, 1, 2), K, padding=module.padding, stride=S)
    v = v.reshape(B, heads, C // heads, K * K, h * w).permute(0, 1, 4, 3, 2)
    pooled = F.avg_pool2d(x.permute(0, 3, 1, 2), S, S, ceil_mode=True).permute(0, 2, 3, 1)
    attention = module.attn(pooled).reshape(B, h * w, heads, K * K, K * K).permute(0, 2, 1, 3, 4)
    attention = (attention * (C // heads) ** -0.5).softmax(-1)
    mixed = (attention @ v).permute(0, 1, 4, 3, 2).reshape(B, C * K * K, h * w)
    return module.proj(F.fold(mixed, (H, W), K, padding=module.padding, stride=S).permute(0, 2, 3, 1))


def test_stochastic_depth_reaches_the_outlookers():
    block = OutlookerBlock(8, 2, drop_path_rate=0.99).train()
    torch.manual_seed(0)
    x = torch.randn(4, 5, 5, 8)
    assert torch.equal(block(x), x)
    assert not torch.equal(block.eval()(x), x)


def test_a_position_embedding_keeps_its_values_at_its_own_size_and_its_ends_at_others():
    weight = torch.linspace(0, 1, 8)[None, None, :, None].expand(1, 8, 8, 3)
    assert resize_position_embedding(weight, 8, 8) is weight
    larger = resize_position_embedding(weight, 8, 16)[0, 0, :, 0]
    assert (larger.diff() > -0.02).all()
    assert abs(larger[0]) < 0.05
    assert abs(larger[-1] - 1) < 0.05


def test_a_handful_of_images_can_be_learned_by_heart():
    torch.manual_seed(0)
    model = volo.create_model("quickstart", num_classes=4)
    images, labels = torch.randn(8, 3, 32, 32), torch.arange(8) % 4
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(40):
        loss = F.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.05


@pytest.mark.parametrize(("size", "stride"), [((8, 8), 1), ((7, 9), 2)])
def test_outlook_attention_equals_timms_by_every_formulation(size, stride):
    torch.manual_seed(0)
    peer = TimmOutlookAttention(12, 3, 3, 1, stride, qkv_bias=True)
    x, grad = torch.randn(2, *size, 12, requires_grad=True), torch.randn(2, *size, 12)
    expected = peer(x)
    of_peer = torch.autograd.grad(expected, (x, *peer.parameters()), grad)
    for op in ("auto", "reference", "dense"):
        module = OutlookAttention(12, 3, 3, 1, stride, qkv_bias=True, op=op)
        module.load_state_dict(peer.state_dict())
        found = module(x)
        assert torch.allclose(found, expected, atol=1e-5)
        for one, other in zip(torch.autograd.grad(found, (x, *module.parameters()), grad), of_peer, strict=True):
            assert torch.allclose(one, other, atol=1e-4)


def test_attention_weights_are_dropped_after_the_softmax_and_in_training_only():
    torch.manual_seed(0)
    module, x = OutlookAttention(4, 2, attn_drop=0.5), torch.randn(1, 5, 5, 4)
    plain = module.eval()(x)
    assert torch.equal(module(x), plain)
    dropped = torch.stack([module.train()(x) for _ in range(400)])
    assert not torch.equal(dropped[0], dropped[1])
    assert torch.allclose(dropped.mean(dim=0), plain, atol=0.1 * plain.abs().max().item())
