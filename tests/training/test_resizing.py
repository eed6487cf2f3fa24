"""Progressive resizing in a run: the sizes that the model sees, and that a resumed run sees the same."""

import pytest

from tests.training.runs import same, small_run, train, weights
from volo.settings.config import build_settings
from volo.settings.differences import differences
from volo.training.learner import Learner

SCHEDULE = dict(resize_schedule=("16:0.25", "24:0.6"))  # of twelve steps
CUT = dict(crop_area=(0.3, 1.0), auto_augment="trivial")


@pytest.mark.parametrize(("others", "readers"), [({}, {}), (CUT, dict(num_readers=2))], ids=["shrunk", "cut"])
def test_a_run_resumed_among_the_smaller_images_ends_as_the_undisturbed_one(
    tmp_path, folder, monkeypatch, others, readers
):
    sizes, real = [], Learner.update

    def noted(self, batch, lr):
        sizes.append(batch.images.shape[-1])
        return real(self, batch, lr)

    monkeypatch.setattr(Learner, "update", noted)
    augment = SCHEDULE | others
    whole = train(small_run(tmp_path, folder, augment=augment, run=dict(run_name="whole", **readers)))
    assert sizes == 3 * [16] + 5 * [24] + 4 * [32]
    for stop in (dict(max_steps=5), {}):
        run = train(small_run(tmp_path, folder, augment=augment, run=readers, optim=stop))
    assert same(weights(run), weights(whole))
    plain = train(small_run(tmp_path, folder, augment=others, run=dict(run_name="plain")))
    assert not same(weights(run), weights(plain))


@pytest.mark.parametrize(
    ("size", "patch", "expected"),
    [(32, 4, ("16:0.3", "24:0.6")), (128, 16, ("64:0.3", "96:0.6")), (36, 4, ("16:0.3", "28:0.6"))],
)
def test_sizes_given_as_fractions_follow_the_image_size_in_whole_patches(size, patch, expected):
    def of(schedule):
        values = dict(data=dict(image_size=size), augment=dict(resize_schedule=schedule))
        return build_settings(values, dict(model=dict(patch_size=patch, stem_channels=(8,) * (patch.bit_length() - 1))))

    shares = of(("0.5:0.3", "0.75:0.6"))
    assert shares.resolved().augment.resize_schedule == expected
    assert not differences(shares, of(expected))
