"""Under autocast the tokens keep autocast's type from the patch embedding to the last block."""

import pytest
import torch
from torch import nn

import volo
from tests.model.forms import FORMS
from volo.model.attention import ClassBlock, TransformerBlock
from volo.model.outlook import OutlookerBlock

PUBLISHED = dict(layers=(1, 1, 1, 1), embed_dims=(16, 32), stage_heads=(2, 4), stem_dim=8)
MODELS = [("quickstart", form) for form in FORMS] + [("volo_d1", PUBLISHED)]


def block_types(model: nn.Module, images: torch.Tensor) -> list[tuple[str, torch.dtype]]:
    """The type of every tensor that a block is given."""
    found = []
    for name, module in model.named_modules():
        if isinstance(module, OutlookerBlock | TransformerBlock | ClassBlock):
            module.register_forward_pre_hook(lambda _, inputs, name=name: found.extend((name, x.dtype) for x in inputs))
    model(images)
    return found


@pytest.mark.parametrize(("name", "form"), MODELS, ids=str)
def test_blocks_are_given_tokens_of_autocasts_type_and_of_their_own_without_it(name, form):
    torch.manual_seed(0)
    model, images = volo.create_model(name, num_classes=3, img_size=32, **form), torch.randn(2, 3, 32, 32)
    assert {kind for _, kind in block_types(model, images)} == {torch.float32}
    with torch.autocast("cpu", torch.bfloat16):
        found = block_types(model, images)
        logits = model(images)
    others = [where for where, kind in found if kind != torch.bfloat16]
    assert found and not others
    torch.testing.assert_close(logits.float(), model(images), rtol=0, atol=0.05)
