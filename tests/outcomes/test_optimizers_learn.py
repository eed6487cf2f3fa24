"""Muon learns digits in half of the steps in which test_forms_learn.py asks AdamW for as much."""

from tests.outcomes.digits import accuracy, settings_of, train


def test_the_saved_model_has_learned_in_half_of_the_steps(digits, tmp_path):
    run_dir = train(settings_of(digits, tmp_path, "run", optim=dict(optimizer="muon", epochs=4)))
    assert accuracy(run_dir, digits) >= 0.75
