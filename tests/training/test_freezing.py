"""--freeze: what is frozen stays as it was to the last bit, statistics included, and the rest is trained."""

import pytest
import torch

from tests.training.runs import same, small_run, train, weights
from volo.model.build import build_model
from volo.runs import checkpoint
from volo.settings.config import build_settings, num_blocks
from volo.training.freezing import freeze
from volo.training.optimizer.depths import layer_depths

PUBLISHED = dict(
    variant="volo_d1", stem_dim=8, layers=(1, 1, 1, 1), embed_dims=(16, 32), stage_heads=(2, 4), patch_size=4,
    form="published", embed_dim=None, stem_channels=None,
)  # fmt: skip
FLAT, PYRAMID = dict(variant="quickstart"), dict(variant="quickstart", form="pyramid")


def built(model: dict):
    settings = build_settings({"model": {key: value for key, value in model.items() if value is not None}})
    return build_model(settings.model, num_classes=3, image_size=32)


@pytest.mark.parametrize("model", [FLAT, PYRAMID, PUBLISHED], ids=["flat", "pyramid", "published"])
@pytest.mark.parametrize("layers", [0, 1, 2, "backbone", None])
def test_the_first_layers_get_no_gradient(model, layers):
    net = built(model)
    freeze(net, layers)
    depths = layer_depths(net)
    deepest = {"backbone": max(depths.values()) - 1, None: -1}.get(layers, layers)
    trained = {name for name, parameter in net.named_parameters() if parameter.requires_grad}
    assert trained == {name for name, depth in depths.items() if depth > deepest}
    assert "head.weight" in trained and ("patch_embed.proj.weight" in trained) == (layers is None)


@pytest.mark.parametrize("model", [FLAT, FLAT | dict(pooling="cli"), PYRAMID, PUBLISHED], ids=str)
def test_the_settings_count_the_blocks_of_the_model(model):
    settings = build_settings({"model": {key: value for key, value in model.items() if value is not None}})
    assert num_blocks(settings.model) == max(layer_depths(built(model)).values()) - 1


@pytest.mark.parametrize(("layers", "optimizer"), [(0, "adamw"), (1, "muon"), ("backbone", "muon")])
def test_a_run_changes_what_is_not_frozen_and_nothing_else_and_resumes_exactly(tmp_path, folder, layers, optimizer):
    source = train(small_run(tmp_path, folder, optim=dict(epochs=1), run=dict(run_name="source")))
    optim = dict(init_weights=str(checkpoint.find(source)), freeze=layers, optimizer=optimizer)
    whole = weights(train(small_run(tmp_path, folder, optim=optim, run=dict(run_name="whole"))))
    for stop in (5, None):
        stopped = train(small_run(tmp_path, folder, optim=optim | dict(max_steps=stop)))
    assert same(weights(stopped), whole)
    before, _ = checkpoint.load_model(checkpoint.find(source))
    depths = layer_depths(built(dict(variant="quickstart", embed_dim=32, stem_channels=(8, 16))))
    deepest = max(depths.values()) - 1 if layers == "backbone" else layers
    for name, depth in depths.items():
        for kept in (name, f"raw.{name}"):
            assert torch.equal(whole[kept], before[name]) == (depth <= deepest), kept


def test_frozen_batch_norm_keeps_its_statistics(tmp_path, folder):
    def run(name: str, **optim):
        settings = small_run(tmp_path, folder, optim=dict(epochs=1) | optim, run=dict(run_name=name))
        model = build_settings({"model": {key: value for key, value in PUBLISHED.items() if value is not None}}).model
        return train(settings.model_copy(update={"model": model}))

    source = run("source")
    before, _ = checkpoint.load_model(checkpoint.find(source))
    after = weights(run("probe", init_weights=str(checkpoint.find(source)), freeze="backbone"))
    statistics = [name for name in before if "running" in name]
    assert statistics and all(torch.equal(after[name], before[name]) for name in statistics)
    moved = weights(run("moved", init_weights=str(checkpoint.find(source))))
    assert not any(torch.equal(moved[name], before[name]) for name in statistics)
