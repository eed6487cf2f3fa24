"""Gradients and activations of the explained layer are those that captum finds."""

import pytest
import torch
from captum.attr import LayerActivation, LayerGradientXActivation

import volo
from tests.model.forms import FORMS
from volo.analysis.explaining.gradcam import grad_cam, other_classes


def by_captum(model: torch.nn.Module, images: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
    """(B, h, w): the map, differentiated by captum, one class after the other."""
    layer = model.get_submodule(model.explained_layer)
    with torch.no_grad():
        activations = LayerActivation(model, layer).attribute(images)
    asked = torch.cat([classes[:, None], other_classes(classes, 7)], dim=1)

    def probabilities(images):
        p = model(images).double().softmax(dim=-1)
        own = p.gather(1, classes[:, None]).detach()
        return p.gather(1, asked) / (own * (1 - own)).clamp(min=1e-30)

    gradient = LayerGradientXActivation(probabilities, layer, multiply_by_inputs=False)
    distances = activations - activations.mean(dim=(1, 2), keepdim=True)
    slopes = [gradient.attribute(images, target=column) for column in range(asked.shape[1])]
    own, *others = ((slope * distances).clamp(min=0) for slope in slopes)
    return (own - torch.stack(others).square().mean(dim=0).sqrt()).sum(dim=-1).float()


@pytest.mark.parametrize("form", FORMS, ids=lambda form: "-".join(map(str, form.values())))
def test_map_equals_the_one_differentiated_by_captum(form):
    torch.manual_seed(0)
    model = volo.create_model("quickstart", num_classes=7, **form).eval()
    images, classes = torch.randn(3, 3, 32, 32), torch.tensor([3, 6, 0])
    expected = by_captum(model, images, classes).detach()
    scale = expected.abs().max()
    assert scale > 1e-3
    torch.testing.assert_close(grad_cam(model, images, classes) / scale, expected / scale, rtol=0, atol=1e-6)
