"""What weights of another run and a teacher are worth: more held-out digits told apart after the same few steps."""

from pathlib import Path

import pytest

from tests.outcomes.digits import PUBLISHED, accuracy, settings_of, train, write_digits

pytestmark = pytest.mark.slow

SHORT = dict(epochs=3, batch_size=32)


@pytest.fixture(scope="module")
def teacher(digits, tmp_path_factory):
    """A flat model that tells 95% of the digits apart."""
    long = dict(epochs=24, batch_size=32)
    run_dir = train(settings_of(digits, tmp_path_factory.mktemp("teacher"), "teacher", optim=long))
    assert accuracy(run_dir, digits) >= 0.95
    return run_dir


def test_fine_tuning_on_other_classes_at_another_size_beats_training_from_scratch(tmp_path):
    """Weights of 0 to 4 at 16 pixels for 5 to 9 at 24: 96 to 98% where as many steps from scratch reach 80 to 89%."""
    before = write_digits(tmp_path / "before", range(5))
    after = write_digits(tmp_path / "after", range(5, 10))
    source = train(settings_of(before, tmp_path, "source", model=PUBLISHED, optim=dict(epochs=12)))

    def trained(name: str, **optim) -> float:
        same = dict(model=PUBLISHED, data=dict(image_size=24), optim=dict(epochs=6, batch_size=32) | optim)
        return accuracy(train(settings_of(after, tmp_path, name, **same)), after)

    assert trained("tuned", init_weights=str(source)) >= trained("scratch") + 0.05


def test_a_linear_probe_learns_new_names_of_the_digits_from_the_features_of_a_trained_backbone(tmp_path, teacher):
    """97.8 to 98.3% in three epochs over three seeds; by the features of weights as they are drawn, 42 to 47%."""
    named = write_digits(tmp_path / "named")
    for folder in [*named.glob("*/*")]:
        folder.rename(folder.with_name(f"digit {folder.name}"))
    drawn = train(settings_of(named, tmp_path, "drawn", optim=dict(max_steps=1, lr=1e-5)))

    def probed(name: str, source: Path) -> float:
        probe = dict(init_weights=str(source), freeze="backbone", epochs=3, batch_size=32, lr=1e-2)
        plain = dict(mixup_alpha=0.0, cutmix_alpha=0.0, mix_prob=None)
        return accuracy(train(settings_of(named, tmp_path, name, optim=probe, augment=plain)), named)

    features = probed("probe", teacher)
    assert features >= 0.9 and features >= probed("of-drawn", drawn) + 0.3


def test_distillation_beats_the_labels_alone(digits, tmp_path, teacher):
    alone = settings_of(digits, tmp_path, "alone", model=PUBLISHED, optim=SHORT)
    taught = settings_of(
        digits, tmp_path, "taught", model=PUBLISHED, optim=SHORT, teaching=dict(teacher=str(teacher), distillation=0.7)
    )
    assert accuracy(train(taught), digits) >= accuracy(train(alone), digits)


@pytest.mark.parametrize("mix_token", [False, True])
def test_a_model_learns_from_token_labels(digits, tmp_path, teacher, mix_token):
    """Guessing: 10%. On images of so few pixels they are no gain over the labels alone (EXPERIMENTS.md)."""
    teaching = dict(teacher=str(teacher), token_labels=True, mix_token=mix_token)
    plain = dict(augment=dict(mixup_alpha=0.0, cutmix_alpha=0.0, mix_prob=None), optim=dict(epochs=6, batch_size=32))
    run_dir = train(settings_of(digits, tmp_path, "taught", model=PUBLISHED, teaching=teaching, **plain))
    assert accuracy(run_dir, digits) >= 0.6
