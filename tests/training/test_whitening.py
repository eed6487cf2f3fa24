"""A whitened stem: what its first convolution computes of the training images, and when it is refused."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import volo
from tests.conftest import draw_folder
from tests.training.runs import same, small_run, train, weights
from volo.data.datasets import open_train
from volo.errors import InputError
from volo.settings.config import build_settings
from volo.training import whitening
from volo.training.whitening import samples, whiten_stem

MANY = dict(optim=dict(whiten_stem=True, epochs=2))


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    return draw_folder(tmp_path_factory.mktemp("many"), {"train": {"cat": 70, "dog": 70}})


def photographs(count: int) -> torch.Tensor:
    """Smooth images, (count, 3, 32, 32), as different in brightness from patch to patch as photographs."""
    noise = torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    return F.interpolate(noise, scale_factor=4, mode="bilinear") + 0.3


@pytest.mark.parametrize("name", ["nano", "volo_d1"])
def test_outputs_on_the_training_images_are_decorrelated_of_variance_one_and_come_in_pairs(name):
    model, images = volo.create_model(name, num_classes=2, img_size=32), photographs(40)
    whiten_stem(model, images.split(7))
    convolution = next(module for module in model.modules() if isinstance(module, torch.nn.Conv2d))
    size = convolution.kernel_size[0]
    outputs = F.conv2d(images, convolution.weight, convolution.bias, stride=size).transpose(0, 1).flatten(1)
    half = len(convolution.weight) // 2
    assert torch.equal(convolution.weight[half:], -convolution.weight[:half])
    mean = outputs[:half].detach().mean(dim=1)
    expected = torch.zeros(half)
    if convolution.bias is not None:
        torch.testing.assert_close(mean, expected, rtol=0, atol=1e-3)
    covariance = outputs[:half].detach().cov()
    correlations = covariance / covariance.diagonal().outer(covariance.diagonal()).sqrt()
    torch.testing.assert_close(correlations, torch.eye(half), rtol=0, atol=0.02)
    assert covariance.diagonal()[0] == pytest.approx(1, abs=0.01)
    assert (covariance.diagonal() < 1.01).all()


def test_a_run_starts_whitened_and_resumes_with_what_it_started_with(tmp_path, many, monkeypatch):
    """The images are not asked again: the checkpoint has the weights."""
    whole = train(small_run(tmp_path, many, **MANY, run=dict(run_name="whole")))
    settings = small_run(tmp_path, many, run=dict(run_name="plain"), optim=dict(epochs=2))
    plain = train(settings)
    assert not same(weights(whole), weights(plain))
    train(small_run(tmp_path, many, optim=dict(whiten_stem=True, epochs=2, max_steps=3)))
    monkeypatch.setattr(whitening, "samples", None)
    assert same(weights(train(small_run(tmp_path, many, **MANY))), weights(whole))


def test_the_images_are_spread_over_all_that_are_trained_on(tmp_path, many, monkeypatch):
    monkeypatch.setattr(whitening, "MOST_IMAGES", 20)
    monkeypatch.setattr(whitening, "AT_ONCE", 7)
    split = open_train(small_run(tmp_path, many).resolved().data)[1]
    parts = samples(split)
    assert [len(part) for part in parts] == [7, 7, 6]
    chosen = np.concatenate(parts)
    assert len(np.unique(chosen)) == 20 and np.isin(chosen, split.train).all()
    assert (chosen[0], chosen[-1]) == (split.train[0], split.train[-1])


def test_too_few_images_are_refused_before_anything_is_trained(tmp_path, folder):
    settings = small_run(tmp_path, folder, **MANY)
    with pytest.raises(InputError, match="--whiten-stem needs at least 100 images to train on, got 64; omit it"):
        train(settings)
    assert not settings.run_dir.exists()


@pytest.mark.parametrize(
    ("values", "rule"),
    [
        (dict(optim=dict(whiten_stem=True, init_weights="x")), "whiten_stem has no effect with init_weights"),
        (
            dict(optim=dict(whiten_stem=True), model=dict(variant="quickstart", stem_channels=())),
            r"whiten_stem needs a stem of convolutions, got stem_channels=\(\); set --stem-channels",
        ),
    ],
)
def test_whitening_that_takes_effect_nowhere_is_refused(values, rule):
    with pytest.raises(InputError, match=rule):
        build_settings(values)
