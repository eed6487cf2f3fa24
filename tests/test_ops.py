"""The public operator and layer: their documented examples, and what they refuse."""

import doctest

import pytest
import torch

import volo
from volo.model.outlook_ops import FORMULATIONS


@pytest.mark.parametrize(
    "public", [volo.ops.outlook_aggregate, volo.OutlookAttention], ids=lambda public: public.__name__
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
        ((VALUES, LOGITS, 3, 1, -1), "padding at least 0, got .*padding=-1"),
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
