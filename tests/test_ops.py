"""The public operator and layer: their documented examples, and what they refuse."""

import doctest

import pytest
import torch

import volo
from volo.model.outlook_ops import FORMULATIONS


@pytest.mark.parametrize(
    "public",
    [volo.ops.outlook_aggregate, volo.ops.accelerate, volo.OutlookAttention],
    ids=lambda public: public.__name__,
)
def test_the_documented_example_runs(public):
    (example,) = [
        found for found in doctest.DocTestFinder().find(public, public.__name__) if found.name == public.__name__
    ]
    assert example.examples
    assert doctest.DocTestRunner().run(example).failed == 0


def test_without_options_it_equals_unfold_softmax_matmul_and_fold():
    torch.manual_seed(0)
    values, logits = torch.randn(2, 6, 5, 8), torch.randn(2, 6, 5, 2, 9, 9)
    windows = torch.nn.functional.unfold(values.permute(0, 3, 1, 2), 3, padding=1)  # (B, C*9, 30)
    windows = windows.reshape(2, 2, 4, 9, 30).permute(0, 4, 1, 3, 2)  # (B, 30, heads, 9, d)
    mixed = logits.reshape(2, 30, 2, 9, 9).softmax(dim=-1) @ windows
    mixed = mixed.permute(0, 2, 4, 3, 1).reshape(2, 72, 30)
    expected = torch.nn.functional.fold(mixed, (6, 5), 3, padding=1).permute(0, 2, 3, 1)
    assert torch.allclose(volo.ops.outlook_aggregate(values, logits, 3), expected, atol=1e-5)


@pytest.mark.parametrize("padding", [0, 2])
@pytest.mark.parametrize("op", sorted(FORMULATIONS.keys() - {"reference", "fused"}))
def test_every_formulation_takes_any_padding(op, padding):
    torch.manual_seed(0)
    num_windows = 5 + 2 * padding - 2
    values, logits = torch.randn(1, 5, 5, 4), torch.randn(1, num_windows, num_windows, 2, 9, 9)
    found, expected = (volo.ops.outlook_aggregate(values, logits, 3, 1, padding, op=name) for name in (op, "reference"))
    assert torch.allclose(found, expected, atol=1e-5)


VALUES, LOGITS = torch.zeros(1, 5, 5, 4), torch.zeros(1, 5, 5, 2, 9, 9)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((VALUES, LOGITS, 2), "kernel_size must be odd, .*got kernel_size=2, .*; use"),
        ((VALUES, LOGITS, 3, 4), r"stride in \[1, kernel_size\], .*stride=4"),
        ((VALUES, LOGITS, 3, 1, -1), "padding at least 0, .*got .*padding=-1"),
        ((VALUES, LOGITS, 3.0), r"all whole numbers, got kernel_size=3\.0, .*; use"),
        ((VALUES, LOGITS, "3"), "all whole numbers, got kernel_size='3', .*; use"),
        ((VALUES, LOGITS, True), "all whole numbers, got kernel_size=True, .*; use"),
        ((VALUES, LOGITS, 3, None), "all whole numbers, got .*stride=None, .*; use"),
        ((VALUES, LOGITS, 3, 1, 1.0), r"all whole numbers, got .*padding=1\.0; use"),
        ((VALUES.numpy(), LOGITS, 3), "values and logits must be tensors, got ndarray and Tensor; use torch.as_tensor"),
        ((VALUES, [1.0], 3), "values and logits must be tensors, got Tensor and list; use"),
        ((VALUES, LOGITS[:, :, :, :0], 3), r"at least one .* head, got .*\(1, 5, 5, 0, 9, 9\); skip empty maps"),
        ((VALUES, LOGITS, 3, 1, 1, None), "outlook_op must be one of auto, .*got None; use auto"),
        ((VALUES, LOGITS, 3, 1, 1, ["cpu"]), r"outlook_op must be one of auto, .*got \['cpu'\]; use auto"),
        ((VALUES[0], LOGITS, 3), r"values must be \(B, H, W, C\) .*got \(5, 5, 4\).*; permute"),
        ((VALUES, LOGITS[0], 3), r"logits \(B, h, w, heads, .*got .*\(5, 5, 2, 9, 9\)"),
        ((VALUES[:, :1], LOGITS, 3, 1, 0), "the padded map must hold a window, got H=1, .*; use a larger padding"),
        ((VALUES, LOGITS, 3, 2), r"logits must be .*\(1, 3, 3, heads, 9, 9\).*got \(1, 5, 5, 2, 9, 9\); give one"),
        ((VALUES[..., :3], LOGITS, 3), "with heads dividing C=3"),
        ((VALUES.long(), LOGITS, 3), "must be floating point, got torch.int64 and torch.float32; use .float"),
        ((VALUES, LOGITS.to("meta"), 3), "must be on one device, got cpu and meta; use logits.to"),
        ((VALUES, LOGITS, 3, 1, 1, "quick"), "outlook_op must be one of auto, .*got 'quick'"),
    ],
)
def test_arguments_that_do_not_fit_are_refused_with_rule_value_and_remedy(arguments, message):
    with pytest.raises(ValueError, match=message):
        volo.ops.outlook_aggregate(*arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            dict(dim=0, num_heads=1),
            "dim and num_heads must be whole numbers of at least 1, got dim=0, num_heads=1; use",
        ),
        (dict(num_heads=0), "whole numbers of at least 1, got dim=64, num_heads=0; use"),
        (dict(num_heads=-2), "whole numbers of at least 1, got .*num_heads=-2"),
        (dict(dim=64.0), r"whole numbers of at least 1, got dim=64\.0"),
        (dict(dim="64"), "whole numbers of at least 1, got dim='64'"),
        (dict(dim=None), "whole numbers of at least 1, got dim=None"),
        (dict(num_heads=3), "dim must be divisible by num_heads, got dim=64, num_heads=3; use"),
        (dict(kernel_size=4), "kernel_size must be odd, .*got kernel_size=4, .*; use"),
        (dict(kernel_size="3"), "all whole numbers, got kernel_size='3'"),
        (dict(stride=0), r"stride in \[1, kernel_size\], .*stride=0"),
        (dict(padding=-1), "padding at least 0, .*padding=-1"),
        (dict(padding=0.5), r"all whole numbers, .*padding=0\.5"),
        (dict(attn_drop=1.5), r"attn_drop and proj_drop must be in \[0, 1\], got attn_drop=1\.5, .*; use"),
        (dict(proj_drop="0"), r"attn_drop and proj_drop must be in \[0, 1\], .*proj_drop='0'; use"),
    ],
)
def test_a_layer_that_cannot_be_is_refused_with_rule_value_and_remedy(arguments, message):
    with pytest.raises(ValueError, match=message):
        volo.OutlookAttention(**{"dim": 64, "num_heads": 2} | arguments)


@pytest.mark.parametrize("op", ["auto", *FORMULATIONS])
@pytest.mark.parametrize(
    ("wrong", "found"),
    [
        (torch.zeros(2, 4, 8, 8), r"\(2, 4, 8, 8\) torch\.float32"),
        (torch.zeros(8, 8, 4), r"\(8, 8, 4\)"),
        (torch.zeros(2, 0, 8, 4), r"\(2, 0, 8, 4\)"),
        (torch.zeros(2, 8, 0, 4), r"\(2, 8, 0, 4\)"),
        (torch.zeros(2, 8, 8, 4).long(), r"\(2, 8, 8, 4\) torch\.int64"),
        (torch.zeros(2, 8, 8, 4).numpy(), "ndarray"),
        (None, "NoneType"),
    ],
)
def test_the_layer_refuses_what_is_no_map_of_its_width_before_it_computes(op, wrong, found):
    with pytest.raises(ValueError, match=rf"\(B, H, W, C\) .*C=4, got {found}.*; permute .*x\.permute\(0, 2, 3, 1\)"):
        volo.OutlookAttention(4, 2, op=op)(wrong)


@pytest.mark.parametrize("op", sorted(FORMULATIONS.keys() - {"fused"}))
def test_a_map_without_pixels_or_channels_is_refused_and_an_empty_batch_gives_an_empty_result(op):
    for values, logits, padding in (
        (torch.zeros(1, 0, 5, 4), torch.zeros(1, 2, 7, 2, 9, 9), 2),
        (torch.zeros(1, 5, 5, 0), LOGITS, 1),
    ):
        with pytest.raises(ValueError, match=r"at least one pixel, one channel, and one head, got .*; skip"):
            volo.ops.outlook_aggregate(values, logits, 3, 1, padding, op=op)
    values, logits = VALUES[:0].clone().requires_grad_(), LOGITS[:0].clone().requires_grad_()
    out = volo.ops.outlook_aggregate(values, logits, 3, op=op)
    out.sum().backward()
    assert (out.shape, values.grad.shape, logits.grad.shape) == (values.shape, values.shape, logits.shape)
    assert volo.OutlookAttention(4, 2, op=op)(VALUES[:0]).shape == VALUES[:0].shape
