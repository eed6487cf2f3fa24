"""--grad-checkpointing in a run: the same weights, also turned on for the rest of a run."""

from tests.training.runs import same, small_run, train, weights
from volo.model import layers

ON = dict(optim=dict(grad_checkpointing=True))


def test_a_run_that_recomputes_its_blocks_from_some_step_on_ends_with_the_same_weights(tmp_path, folder, monkeypatch):
    model = dict(drop_path_rate=0.2)
    whole = train(small_run(tmp_path, folder, model=model, run=dict(run_name="whole")))
    calls, real = [], layers.checkpoint
    monkeypatch.setattr(layers, "checkpoint", lambda *args, **kwargs: calls.append(1) or real(*args, **kwargs))
    train(small_run(tmp_path, folder, model=model, optim=dict(max_steps=5)))
    assert not calls
    run = train(small_run(tmp_path, folder, model=model, **ON))
    assert len(calls) == 7 * 2  # steps left, and blocks
    assert same(weights(run), weights(whole))
