"""Progressive resizing in a run: the sizes that the model sees, and that a resumed run sees the same."""

from tests.training.runs import same, small_run, train, weights
from volo.training.learner import Learner

SCHEDULE = dict(augment=dict(resize_schedule=("16:0.25", "24:0.6")))  # of twelve steps


def test_a_run_resumed_among_the_smaller_images_ends_as_the_undisturbed_one(tmp_path, folder, monkeypatch):
    sizes, real = [], Learner.update

    def noted(self, batch, lr):
        sizes.append(batch.images.shape[-1])
        return real(self, batch, lr)

    monkeypatch.setattr(Learner, "update", noted)
    whole = train(small_run(tmp_path, folder, **SCHEDULE, run=dict(run_name="whole")))
    assert sizes == 3 * [16] + 5 * [24] + 4 * [32]
    for stop in (dict(max_steps=5), {}):
        run = train(small_run(tmp_path, folder, **SCHEDULE, optim=stop))
    assert same(weights(run), weights(whole))
    assert not same(weights(run), weights(train(small_run(tmp_path, folder, run=dict(run_name="plain")))))
