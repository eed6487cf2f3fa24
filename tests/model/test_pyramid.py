import pytest
import torch
import torch.nn.functional as F

from volo.model.pyramid import GlobalStage, MapDownsample, TokenDownsample, VOLOPyramid


def pyramid(*kinds: str, **arguments) -> VOLOPyramid:
    """Of so many stages, 8 channels more in each."""
    number = len(kinds)
    dims = [8 * (1 + stage) for stage in range(number)]
    defaults = dict(stage_depths=[1] * number, stage_num_heads=[2] * number, stage_embed_dims=dims, patch_size=2)
    return VOLOPyramid(5, stage_kinds=kinds, **defaults | arguments)


@pytest.mark.parametrize("kinds", [("local",), ("global",), ("local", "global", "local", "global"), ("local",) * 6])
@pytest.mark.parametrize("kind", ["map", "token"])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_any_order_of_stages_works_on_images_from_a_single_patch_on(kinds, kind, stride):
    torch.manual_seed(0)
    model = pyramid(*kinds, downsample_kind=kind, outlook_stride=stride, img_size=16)
    for size in ((2, 2), (3, 5), (16, 16), (23, 9)):
        assert model(torch.randn(2, 3, *size)).isfinite().all()


@pytest.mark.parametrize("downsample", [MapDownsample, TokenDownsample])
@pytest.mark.parametrize(("size", "half"), [((1, 1), (1, 1)), ((4, 6), (2, 3)), ((5, 7), (3, 4)), ((1, 4), (1, 2))])
def test_downsampling_halves_and_rounds_up(downsample, size, half):
    assert downsample(4, 6)(torch.randn(2, *size, 4)).shape == (2, *half, 6)


def test_tokens_are_merged_with_their_neighbours_and_no_others():
    torch.manual_seed(0)
    module, x = TokenDownsample(3, 5), torch.randn(1, 5, 4, 3)
    merged = module(x)
    together = torch.cat([x[0, 2, 2], x[0, 2, 3], x[0, 3, 2], x[0, 3, 3]])
    assert torch.allclose(merged[0, 1, 1], module.proj(module.norm(together)), atol=1e-6)
    beyond = torch.cat([x[0, 4, 0], x[0, 4, 1], torch.zeros(6)])
    assert torch.allclose(merged[0, 2, 0], module.proj(module.norm(beyond)), atol=1e-6)


def test_position_embeddings_fit_the_map_of_their_stage():
    model = pyramid("global", "local", "global", img_size=18)
    assert [model.stages[stage].pos_embed.weight.shape[1] for stage in (0, 2)] == [9, 3]
    x = torch.randn(1, 9, 9, 8)
    stage = GlobalStage(8, 2, [], grid=9)
    assert torch.equal(stage(x), x + stage.pos_embed.weight)


def test_stochastic_depth_rises_linearly_over_all_blocks():
    model = pyramid("local", "global", stage_depths=[2, 3], drop_path_rate=0.4)
    blocks = [*model.stages[0], *model.stages[1].blocks]
    rates = [getattr(block.drop_path, "p", 0.0) for block in blocks]
    assert rates == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])


@pytest.mark.parametrize(
    ("kinds", "layer"),
    [
        (("local", "global"), "stages.0"),
        (("local", "local", "global"), "stages.1"),
        (("global", "local"), "stages.1"),
        (("global", "global"), "patch_embed"),
    ],
)
def test_the_last_local_map_is_explained(kinds, layer):
    assert pyramid(*kinds).explained_layer == layer


@pytest.mark.parametrize(
    ("arguments", "rule"),
    [
        (dict(stage_depths=[1]), r"every stage needs a kind, a depth, a width, and heads, got .*stage_depths=\(1,\)"),
        (dict(stage_kinds=("local", "outer")), "stage_kinds must be local or global, got outer"),
        (dict(downsample_kind="pool"), "downsample_kind must be map or token, got 'pool'"),
        (dict(img_size=1), "img_size must be at least patch_size"),
        (dict(stage_num_heads=[3, 3]), "dim must be divisible by num_heads, got dim=8, num_heads=3"),
    ],
)
def test_the_module_itself_refuses_what_cannot_work(arguments, rule):
    kinds = arguments.pop("stage_kinds", ("local", "global"))
    with pytest.raises(ValueError, match=rule):
        pyramid(*kinds, **arguments)


@pytest.mark.parametrize("kind", ["map", "token"])
def test_a_handful_of_images_can_be_learned_by_heart(kind):
    torch.manual_seed(0)
    model = pyramid("local", "global", downsample_kind=kind, stage_embed_dims=[16, 32])
    images, labels = torch.randn(8, 3, 16, 16), torch.arange(8) % 4
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(40):
        loss = F.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.05
