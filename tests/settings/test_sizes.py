"""Every named size in every form: what it weighs, what it reads, what it can be explained on."""

import numpy as np
import pytest
import torch

import volo
from tests.model.forms import FORMS
from volo.errors import InputError
from volo.settings.sizes import VARIANTS, forms_of

LIMITS = {"nano": (0, 0.7e6), "tiny": (2e6, 3e6), "small": (8e6, 10e6), "quickstart": (0, 0.25e6)}
OWN = [name for name in VARIANTS if "flat" in forms_of(name)]
SIZES = [(4, 4), (5, 7), (32, 32), (33, 47), (64, 16)]

every_form = pytest.mark.parametrize("form", FORMS, ids=lambda form: "-".join(map(str, form.values())))


@pytest.mark.parametrize("name", OWN)
@every_form
def test_sizes_are_what_their_names_promise(name, form):
    with torch.device("meta"):
        model = volo.create_model(name, **form)
    low, high = LIMITS[name]
    assert low <= sum(p.numel() for p in model.parameters()) <= high


@pytest.mark.parametrize("name", OWN)
@every_form
def test_every_variant_makes_finite_logits_and_gradients_everywhere(name, form):
    torch.manual_seed(0)
    model = volo.create_model(name, num_classes=7, **form)
    logits = model(torch.randn(2, 3, 32, 32))
    assert logits.shape == (2, 7)
    logits.square().sum().backward()
    gradients = [p.grad for p in model.parameters()]
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)


@every_form
def test_without_classes_a_model_gives_the_features_that_its_head_would_read(form):
    torch.manual_seed(0)
    images, whole = torch.randn(2, 3, 32, 32), volo.create_model("nano", **form).eval()
    features = volo.create_model("nano", num_classes=0, **form).eval()
    state = {name: tensor for name, tensor in whole.state_dict().items() if not name.startswith("head.")}
    features.load_state_dict(state, strict=True)
    assert torch.equal(features(images), whole.forward_features(images))
    assert torch.equal(whole.head(features(images)), whole(images))
    assert features.dense(images).patch_logits.shape[-1] == features(images).shape[-1] == 96


@pytest.mark.parametrize("name", ["nano", "volo_d1"])
def test_no_number_given_to_create_model_is_taken_for_none_given(name):
    with pytest.raises(InputError, match=r"num_classes must be .* at least 0 \(features instead of logits\), got -1"):
        volo.create_model(name, num_classes=-1)
    with pytest.raises(InputError, match=r"data\.image_size must be greater than or equal to 1, got 0"):
        volo.create_model(name, img_size=0)
    with torch.device("meta"):
        assert volo.create_model(name, num_classes=1)(torch.empty(1, 3, 32, 32, device="meta")).shape == (1, 1)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (dict(name=["nano"]), r"model\.variant must be .*, got \['nano'\]"),
        (dict(num_classes=1.5), "num_classes must be a whole number .*, got 1.5; give"),
        (dict(num_classes=True), "num_classes must be a whole number .*, got True; give"),
        (dict(num_classes="10"), "num_classes must be a whole number .*, got '10'; give"),
        (dict(img_size="32"), "img_size must be a whole number of pixels, got '32'; give"),
        (dict(img_size=32.0), r"img_size must be a whole number of pixels, got 32\.0; give"),
        (dict(hierarchical="no"), "hierarchical must be True or False, got 'no'; give"),
        (dict(num_classes=10**12), "fit into memory, got num_classes=1,000,000,000,000, .*; choose smaller ones"),
        (dict(num_classes=10**20), "fit into memory, got num_classes=1"),
        (dict(embed_dim=6 * 10**17), "fit into memory, got .*'embed_dim': 600000000000000000"),
        (dict(mlp_ratio=1e300), "fit into memory, got .*'mlp_ratio': 1e"),
    ],
)
def test_what_create_model_cannot_build_is_refused_with_rule_value_and_remedy(given, message):
    with pytest.raises(InputError, match=message):
        volo.create_model(**{"name": "nano"} | given)


def test_create_model_takes_whole_numbers_of_numpy():
    model = volo.create_model("nano", num_classes=np.int64(3), img_size=np.int64(16))
    assert model(torch.zeros(1, 3, 16, 16)).shape == (1, 3)


@pytest.mark.parametrize("size", SIZES)
@every_form
def test_any_image_of_a_patch_or_more_works_whatever_size_was_trained(form, size):
    model = volo.create_model("nano", num_classes=3, img_size=32, **form).eval()
    assert model(torch.randn(1, 3, *size)).isfinite().all()


@every_form
def test_the_explained_layer_makes_a_map_that_gets_gradient_everywhere(form):
    torch.manual_seed(0)
    model = volo.create_model("quickstart", num_classes=4, **form).eval()
    seen = []
    layer = model.get_submodule(model.explained_layer)
    layer.register_forward_hook(lambda module, inputs, output: seen.append(output))
    logits = model(torch.randn(2, 3, 32, 32))
    (grad,) = torch.autograd.grad(logits[:, 1].sum(), seen)
    assert seen[0].shape[:3] == (2, 8, 8)
    assert (grad.abs().sum(-1) > 0).all()


@every_form
def test_every_form_is_one_graph_to_torch_compile(form):
    torch.manual_seed(0)
    model = volo.create_model("quickstart", num_classes=4, **form)
    images = torch.randn(2, 3, 32, 32)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    assert torch.allclose(compiled(images), model(images), atol=1e-5)


def test_hierarchical_and_form_must_agree():
    assert volo.create_model("quickstart", form="pyramid").stages
    with pytest.raises(ValueError, match="hierarchical makes a pyramid, got form='flat'"):
        volo.create_model("quickstart", hierarchical=True, form="flat")
    with pytest.raises(ValueError, match="pooling has no effect on a pyramid"):
        volo.create_model("quickstart", hierarchical=True, pooling="cls")
