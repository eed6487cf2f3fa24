"""Autocast on a CPU that has no instructions for it: refused where a user may not know, and never recommended."""

import pytest
import torch

from tests.training.runs import small_run, train
from volo.errors import InputError
from volo.settings.config import build_settings
from volo.training import precision
from volo.training.precision import check_precision, computes_bf16

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def settings(device: str = "auto", **optim):
    return build_settings({"optim": optim, "run": dict(device=device)})


@pytest.fixture
def of_avx2(monkeypatch):
    monkeypatch.setattr(precision.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(precision, "capability", lambda: "AVX2")


def test_bf16_is_refused_where_the_cpu_imitates_it_before_the_run_begins(tmp_path, folder, of_avx2):
    asked = small_run(tmp_path, folder, optim=dict(use_amp=True))
    with pytest.raises(InputError, match=r"computes in bfloat16 .* got one with AVX2, .* omit it .*insist with"):
        train(asked)
    assert not asked.run_dir.exists()


@pytest.mark.parametrize(
    ("device", "asked", "insisted"),
    [
        (CPU, dict(), "auto"),
        (CPU, dict(use_amp=False), "auto"),
        (CPU, dict(use_amp=True, autocast_dtype="fp16"), "auto"),
        (CPU, dict(use_amp=True, autocast_dtype="bf16"), "cpu"),
        (GPU, dict(use_amp=True), "auto"),
    ],
)
def test_everything_else_is_taken(of_avx2, device, asked, insisted):
    check_precision(settings(insisted, **asked), device)


@pytest.mark.parametrize(
    ("machine", "instructions", "has_kernels"),
    [("x86_64", "AVX2", False), ("x86_64", "AVX512", True), ("x86_64", "DEFAULT", False), ("aarch64", "DEFAULT", True)],
)
def test_which_cpus_compute_in_bfloat16(monkeypatch, machine, instructions, has_kernels):
    monkeypatch.setattr(precision.platform, "machine", lambda: machine)
    monkeypatch.setattr(precision, "capability", lambda: instructions)
    assert computes_bf16() == has_kernels


def test_what_pytorch_says_of_this_cpu_agrees():
    """By the private name that knows; the public one has to do."""
    assert computes_bf16() == torch.ops.mkldnn._is_mkldnn_bf16_supported()
