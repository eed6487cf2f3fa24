"""--compile: what a compiled run leaves, and what it needs."""

import getpass
import os
import stat
import subprocess
import sys
import tempfile
from unittest.mock import ANY

import pytest
import torch

from tests.training.runs import losses, small_run, train, weights
from volo.cli import train as train_job
from volo.cli.outcome import exit_code
from volo.errors import InputError
from volo.runs import checkpoint
from volo.temporary import COMPILED, HEADERS, keep_compiled_code
from volo.training.compilation import check_compiler, compiled
from volo.training.learner import Learner
from volo.training.world import single_process

CPU = torch.device("cpu")


@pytest.mark.slow
def test_a_compiled_run_has_the_losses_of_the_eager_one_and_its_checkpoint(tmp_path, folder):
    plain = dict(augment=dict(mixup_alpha=0, cutmix_alpha=0))
    eager = train(small_run(tmp_path / "eager", folder, **plain))
    compiled = train(small_run(tmp_path / "compiled", folder, **plain, optim=dict(compile=True)))
    assert losses(compiled) == pytest.approx(losses(eager), abs=1e-3)
    assert weights(compiled).keys() == weights(eager).keys()
    _, description = checkpoint.load_model(checkpoint.newest(compiled))
    assert description.settings.optim.compile


@pytest.mark.slow
def test_only_what_is_trained_is_compiled(tmp_path, folder):
    settings = small_run(tmp_path, folder, optim=dict(compile=True)).resolved()
    model = torch.nn.Linear(2, 2)
    learner = Learner(model, settings.optim, single_process("cpu"))
    assert learner.model is model
    assert learner.parallel is not model
    assert {id(p) for p in learner.parallel.parameters()} == {id(p) for p in model.parameters()}
    assert learner.state_dict()["model"].keys() == model.state_dict().keys()
    assert type(learner.final_model) is torch.nn.Linear


def test_a_missing_compiler_is_refused_before_the_run_begins(tmp_path, folder, monkeypatch, capsys):
    monkeypatch.setenv("CXX", "no-such-compiler")
    config = tmp_path / "config.yaml"
    config.write_text(small_run(tmp_path, folder).to_yaml())
    assert exit_code(train_job.main, ["--config", str(config), "--compile"]) == 2
    assert "--compile needs a C++ compiler on a CPU, got no no-such-compiler; install one" in capsys.readouterr().err
    assert not (tmp_path / "outputs").exists()
    check_compiler(torch.device("cuda"))


@pytest.mark.parametrize("is_own", [True, False])
def test_what_others_may_have_written_is_not_run(monkeypatch, tmp_path, caplog, is_own):
    cache = tmp_path / "torchinductor"
    cache.mkdir()
    cache.chmod(0o755 if is_own else 0o777)
    monkeypatch.setenv(COMPILED, str(cache))
    monkeypatch.setenv(HEADERS, "1")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    keep_compiled_code()
    assert (os.environ[COMPILED] == str(cache)) == is_own
    assert caplog.messages == ([] if is_own else [ANY])


@pytest.mark.slow
def test_no_part_of_pytorch_uses_the_folder_that_another_user_may_have_made_beforehand(tmp_path):
    planted = tmp_path / f"torchinductor_{getpass.getuser()}"
    planted.mkdir()
    planted.chmod(0o777)
    code = (
        "import torch; from volo.training.learner import compiled;"
        "compiled(torch.nn.Linear(1, 1), torch.device('cpu'))(torch.ones(1, 1))"
    )
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    environment.pop(COMPILED, None)
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
    assert not list(planted.iterdir())
    [own] = tmp_path.glob("volo-compiled-*")
    assert stat.S_IMODE(own.stat().st_mode) == 0o700 and list(own.iterdir())


def test_a_compiler_that_does_not_work_is_refused_with_its_words(monkeypatch):
    def fail(*arguments, **options):
        raise OSError("no space left")

    monkeypatch.setattr(torch, "compile", fail)
    monkeypatch.setenv("CXX", "python3")
    with pytest.raises(InputError, match="--compile needs a compiler that works on cpu, got no space left; install"):
        compiled(torch.nn.Linear(1, 1), CPU)
