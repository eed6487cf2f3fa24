"""What a fresh model begins with: the published initialization, and no opinion of any image."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import volo
from tests.model.forms import FORMS

PUBLISHED = dict(layers=(1, 1, 1, 1), embed_dims=(96, 192), stage_heads=(3, 6), patch_size=4)
MODELS = [("nano", form) for form in FORMS] + [("volo_d1", PUBLISHED)]


@pytest.mark.parametrize(("name", "form"), MODELS, ids=lambda value: str(value)[:40])
def test_a_fresh_model_has_the_published_initialization_and_thinks_all_classes_alike(name, form):
    torch.manual_seed(0)
    model = volo.create_model(name, num_classes=10, img_size=32, **form).eval()
    for path, module in model.named_modules():
        if isinstance(module, nn.Linear):
            assert module.weight.std().item() == pytest.approx(0.02, rel=0.1), path
            assert module.bias is None or not module.bias.any(), path
        if isinstance(module, nn.LayerNorm):
            assert (module.weight == 1).all() and not module.bias.any(), path
    embeddings = [p for name, p in model.named_parameters() if "pos_embed" in name or name.endswith("s_token")]
    assert embeddings
    for embedding in embeddings:
        assert embedding.std().item() == pytest.approx(0.02, rel=0.2)
    loss = F.cross_entropy(model(torch.randn(16, 3, 32, 32)), torch.arange(16) % 10)
    assert loss.item() == pytest.approx(math.log(10), rel=0.05)
