"""Two runs side by side."""

import pytest
import torch

from tests.faults.tools.kills import files_limited_to
from tests.training.runs import small_run, train
from volo.analysis.compare import weights_difference
from volo.cli import compare
from volo.cli.outcome import exit_code
from volo.errors import ExitCode


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The same run twice, another seed, another model."""
    from tests.conftest import draw_folder

    root = tmp_path_factory.mktemp("compare")
    counts = {"cat": 24, "dog": 24}
    folder = draw_folder(root / "images", {"train": counts, "test": {"cat": 2, "dog": 2}})
    optim = dict(epochs=2, batch_size=8)

    def run(name: str, seed: int = 0, **model):
        settings = small_run(root, folder, optim=optim, run=dict(run_name=name, seed=seed), model=model)
        return train(settings)

    return {"a": run("a"), "same": run("same"), "seed": run("seed", seed=3), "wide": run("wide", embed_dim=64)}


def compared(runs, one: str, other: str, tmp_path, capsys) -> tuple[int, str]:
    with pytest.raises(SystemExit) as ended:
        compare.main([str(runs[one]), str(runs[other]), "--output-dir", str(tmp_path)])
    return ended.value.code, capsys.readouterr().out


def test_the_same_run_twice_has_the_same_weights_and_no_other_setting(runs, tmp_path, capsys):
    code, said = compared(runs, "a", "same", tmp_path, capsys)
    assert code == 0
    assert "weights are the same, bit for bit" in said
    assert "run.run_name" in said and "optim." not in said
    assert (tmp_path / "comparison.png").stat().st_size > 10_000


def test_another_seed_is_named_with_the_largest_difference(runs, tmp_path, capsys):
    code, said = compared(runs, "a", "seed", tmp_path, capsys)
    assert code == ExitCode.DIFFERENT == 5
    assert "run.seed" in said and "weights differ, by" in said


def test_another_model_is_named_by_what_only_one_has(runs, tmp_path, capsys):
    code, said = compared(runs, "a", "wide", tmp_path, capsys)
    assert code == ExitCode.DIFFERENT == 5
    assert "model.embed_dim" in said and "weights differ: different models, only one of which has" in said


def test_what_is_no_run_is_refused(runs, tmp_path, capsys):
    assert exit_code(compare.main, [str(runs["a"]), str(tmp_path)]) == 2
    assert "must be a run folder with checkpoints" in capsys.readouterr().err


def test_a_full_disk_ends_with_code_3_and_leaves_the_earlier_picture(runs, tmp_path, capsys):
    flags = [str(runs["a"]), str(runs["seed"]), "--output-dir", str(tmp_path / "c")]
    compared(runs, "a", "same", tmp_path / "c", capsys)
    before = (tmp_path / "c" / "comparison.png").read_bytes()
    with files_limited_to(1000):
        assert exit_code(compare.main, flags) == 3
    said = capsys.readouterr().err
    assert said.startswith("inference failed: the picture could not be written: ") and "File too large" in said
    assert [path.name for path in (tmp_path / "c").iterdir()] == ["comparison.png"]
    assert (tmp_path / "c" / "comparison.png").read_bytes() == before


def test_nan_in_both_is_the_same_and_in_one_is_infinitely_far():
    nan, one = torch.tensor([float("nan"), 1.0]), torch.tensor([0.0, 1.0])
    assert weights_difference({"w": nan}, {"w": nan.clone()}).is_identical
    assert weights_difference({"w": nan}, {"w": one}).largest == float("inf")
    assert weights_difference({"w": one}, {"w": one + 0.5}) == weights_difference({"w": one + 0.5}, {"w": one})


def test_weights_that_are_equal_but_not_bit_for_bit_are_not_called_so():
    zero, minus_zero = torch.tensor([0.0, 1.0]), torch.tensor([-0.0, 1.0])
    found = weights_difference({"a": zero, "w": zero}, {"a": zero.clone(), "w": minus_zero})
    assert (found.largest, found.where, found.is_identical) == (0.0, "w", False)
    assert "in bits, not in value" in compare._verdict(found)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64, torch.int64])
def test_the_same_numbers_of_another_type_are_other_weights(dtype):
    one = torch.tensor([0.0, 1.0])
    found = weights_difference({"w": one}, {"w": one.to(dtype)})
    assert not found.is_identical and len(found.unshared) == 2
    assert weights_difference({"w": one.to(dtype)}, {"w": one.to(dtype)}).is_identical


def test_one_weight_of_many_changed_in_its_last_bit_is_found():
    weights = {name: torch.rand(50, generator=torch.Generator().manual_seed(0)) for name in "abc"}
    changed = {name: tensor.clone() for name, tensor in weights.items()}
    changed["b"][17] = torch.nextafter(changed["b"][17], torch.tensor(2.0))
    found = weights_difference(weights, changed)
    assert found.where == "b" and 0 < found.largest < 1e-7 and not found.is_identical
