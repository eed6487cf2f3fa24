"""Class attention against timm's, which carries the published names."""

import pytest
import torch
from timm.models.volo import ClassAttention as TimmClassAttention
from timm.models.volo import ClassBlock as TimmClassBlock

from volo.model.attention import ClassAttention, ClassBlock


@pytest.mark.parametrize("num_patches", [1, 16, 200])
@pytest.mark.parametrize("qkv_bias", [False, True])
def test_class_attention_equals_timms_with_the_same_weights(num_patches, qkv_bias):
    torch.manual_seed(0)
    peer = TimmClassAttention(24, num_heads=3, qkv_bias=qkv_bias)
    module = ClassAttention(24, 3, qkv_bias=qkv_bias)
    module.load_state_dict(peer.state_dict())
    tokens = torch.randn(2, 1 + num_patches, 24)
    assert torch.allclose(module(tokens[:, :1], tokens[:, 1:]), peer(tokens), atol=1e-6)


def test_a_class_block_equals_timms_with_the_same_weights():
    torch.manual_seed(0)
    peer = TimmClassBlock(24, num_heads=3, mlp_ratio=3.0).eval()
    module = ClassBlock(24, 3, mlp_ratio=3.0).eval()
    module.load_state_dict(peer.state_dict())
    tokens = torch.randn(2, 17, 24)
    assert torch.allclose(module(tokens[:, :1], tokens[:, 1:]), peer(tokens)[:, :1], atol=1e-6)


def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(ValueError, match="dim must be divisible by num_heads, got dim=10, num_heads=3"):
        ClassAttention(10, 3)
