"""The CPU kernel against the published formulation in float64."""

import os
import subprocess
import sys
import tempfile
import threading

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.checkpoint import checkpoint

pytest.importorskip("numba", reason="the CPU kernel needs numba")

from tests.model.outlook_inputs import assert_close, expected, forward_and_gradients, make_inputs
from volo.model.outlook_ops import cpu, reference


@settings(max_examples=40, deadline=None)
@given(
    B=st.integers(1, 3),
    H=st.integers(1, 11),
    W=st.integers(1, 11),
    heads=st.integers(1, 4),
    d=st.integers(1, 40),
    K=st.sampled_from((1, 3, 3, 5)),
    S=st.integers(1, 3),
    scale=st.sampled_from((1.0, 5.0, 60.0)),
)
def test_forward_and_gradients_equal_the_reference_in_float64(B, H, W, heads, d, K, S, scale):
    inputs = make_inputs(B, H, W, heads, d, K, min(S, K), scale=scale)
    assert_close(forward_and_gradients(cpu.aggregate, *inputs), expected(*inputs), 1e-5)


@settings(max_examples=15, deadline=None)
@given(padding=st.integers(0, 2), H=st.integers(3, 9), W=st.integers(3, 9), S=st.integers(1, 3))
def test_any_padding_equals_the_reference(padding, H, W, S):
    values, _, K, *_ = make_inputs(2, H, W, 2, 8)
    h, w = ((size + 2 * padding - K) // S + 1 for size in (H, W))
    logits = torch.randn(2, h, w, 2, K * K, K * K, requires_grad=True)
    inputs = values, logits, K, S, padding
    assert_close(forward_and_gradients(cpu.aggregate, *inputs), expected(*inputs), 1e-5)


@pytest.mark.parametrize("values_dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("logits_dtype", [torch.float32, torch.bfloat16])
def test_bfloat16_is_off_by_its_rounding_only(values_dtype, logits_dtype):
    values, logits, *window = make_inputs(2, 9, 7, 3, 20, S=2)
    values, logits = (t.detach().to(u).requires_grad_() for t, u in ((values, values_dtype), (logits, logits_dtype)))
    found = forward_and_gradients(cpu.aggregate, values, logits, *window)
    assert [t.dtype for t in found] == [values_dtype, values_dtype, logits_dtype]
    assert_close(found, expected(values, logits, *window), 1e-5 + 2**-8)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_other_dtypes_go_through_float32_and_come_back(dtype):
    inputs = make_inputs(1, 6, 6, 2, 8, dtype=dtype)
    found = forward_and_gradients(cpu.aggregate, *inputs)
    assert {t.dtype for t in found} == {dtype}
    assert_close(found, expected(*inputs), 1e-5 + 2 * torch.finfo(dtype).eps)


def test_results_have_the_same_bits_every_time_and_with_any_number_of_threads():
    inputs = make_inputs(3, 8, 8, 6, 32)
    first = forward_and_gradients(cpu.aggregate, *inputs)
    before = torch.get_num_threads()
    try:
        for threads in (before, 1, 2, 5):
            torch.set_num_threads(threads)
            assert all(map(torch.equal, first, forward_and_gradients(cpu.aggregate, *inputs)))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


def test_results_are_the_same_without_openmp(monkeypatch):
    inputs = make_inputs(4, 8, 8, 2, 32)
    with_openmp = forward_and_gradients(cpu.aggregate, *inputs)
    monkeypatch.setattr(cpu, "_openmp", lambda: None)
    assert all(map(torch.equal, with_openmp, forward_and_gradients(cpu.aggregate, *inputs)))


def test_several_threads_can_call_it_at_once():
    inputs = [make_inputs(2 + i, 8, 8, 2, 32) for i in range(4)]
    wanted = [forward_and_gradients(cpu.aggregate, *one) for one in inputs]
    same = []

    def work(i):
        for _ in range(20):
            same.extend(map(torch.equal, wanted[i], forward_and_gradients(cpu.aggregate, *inputs[i])))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(same) == 4 * 20 * 3 and all(same)


def test_inputs_and_gradients_need_not_be_contiguous():
    values, logits, *window = make_inputs(2, 6, 5, 2, 12)
    strided = [t.detach().transpose(0, -1).contiguous().transpose(0, -1).requires_grad_() for t in (values, logits)]
    assert not any(t.is_contiguous() for t in strided)
    dense = forward_and_gradients(cpu.aggregate, values, logits, *window)
    assert all(map(torch.equal, dense, forward_and_gradients(cpu.aggregate, *strided, *window)))
    cpu.aggregate(values, logits, *window).sum().backward()  # an expanded gradient
    reference.aggregate(*strided, *window).sum().backward()
    torch.testing.assert_close(values.grad, strided[0].grad)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e30])
def test_one_bad_logit_spreads_as_far_as_in_the_reference(bad):
    values, logits, *window = make_inputs(2, 6, 6, 2, 16)
    with torch.no_grad():
        logits[1, 2, 3, 1, 4, 5] = bad
    for one, other in zip(
        forward_and_gradients(cpu.aggregate, values, logits, *window),
        forward_and_gradients(reference.aggregate, values, logits, *window),
        strict=True,
    ):
        torch.testing.assert_close(one, other, equal_nan=True, atol=1e-5, rtol=1e-5)


def test_a_logit_of_minus_infinity_masks_its_value():
    values, logits, *window = make_inputs(1, 4, 4, 1, 8)
    with torch.no_grad():
        logits[..., 2] = -float("inf")
    found = forward_and_gradients(cpu.aggregate, values, logits, *window)
    assert_close(found, expected(values, logits, *window), 1e-5)
    assert not found[2][..., 2].any()


def test_operator_passes_opcheck():
    for dtype in (torch.float32, torch.bfloat16):
        values, logits, *window = make_inputs(2, 5, 4, 2, 6, S=2, dtype=dtype)
        torch.library.opcheck(torch.ops.volo.outlook_cpu.default, (values, logits, *window))


def test_compiles_into_one_graph():
    inputs = make_inputs(2, 6, 6, 2, 16)
    compiled = torch.compile(cpu.aggregate, backend="aot_eager", fullgraph=True)
    eager = forward_and_gradients(cpu.aggregate, *inputs)
    assert all(map(torch.equal, eager, forward_and_gradients(compiled, *inputs)))


def test_works_under_autocast_and_checkpointing():
    values, logits, *window = make_inputs(2, 6, 6, 2, 16)

    def block(values, logits):
        return cpu.aggregate(values @ torch.eye(32), logits @ torch.eye(9), *window)  # bfloat16 under autocast

    results = []
    for wrap in (lambda f, *a: f(*a), lambda f, *a: checkpoint(f, *a, use_reentrant=False)):
        with torch.autocast("cpu", torch.bfloat16):
            out = wrap(block, values, logits)
        assert out.dtype == torch.bfloat16
        results.append(torch.autograd.grad(out.float().square().sum(), (values, logits)))
    assert all(map(torch.equal, *results))


def test_second_derivative_raises():
    values, logits, *window = make_inputs(1, 3, 3, 1, 4)
    (first,) = torch.autograd.grad(cpu.aggregate(values, logits, *window).square().sum(), values, create_graph=True)
    with pytest.raises(RuntimeError, match="outlook_cpu_backward"):
        first.sum().backward()


def test_empty_batch_gives_empty_results():
    out, dvalues, dlogits = forward_and_gradients(cpu.aggregate, *make_inputs(0, 4, 4, 2, 8))
    assert (len(out), len(dvalues), len(dlogits)) == (0, 0, 0)


def test_numba_is_imported_on_first_use_only():
    code = "import sys, volo.model.outlook_ops as o, volo.model.outlook_ops.cpu as c; c.is_available()"
    subprocess.run([sys.executable, "-c", f"{code}; assert 'numba' not in sys.modules"], check=True)


def test_a_kernel_that_cannot_be_cached_is_not_said_to_be(tmp_path, monkeypatch, caplog):
    """Numba finds no place to cache a function that is in no file."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # no lock that another process may hold
    names = {}
    exec("def nothing(pointer):\n    pass", names)
    monkeypatch.setattr("volo.model.outlook_ops.cpu_kernels.nothing", names["nothing"], raising=False)
    with caplog.at_level("INFO", "volo"):
        cpu._compiled("nothing")
    warned, told = caplog.messages
    assert warned.startswith("the CPU kernel nothing cannot be cached, so every process compiles it (cannot cache")
    assert told == "compiling the CPU kernel nothing, about 5 s"


@pytest.mark.slow
def test_processes_that_start_together_compile_once(tmp_path):
    code = (
        "import logging; logging.basicConfig(level='INFO'); "
        "from volo.model.outlook_ops import cpu; cpu._kernel('forward_3')"
    )
    env = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    started = [subprocess.Popen([sys.executable, "-c", code], env=env, stderr=subprocess.PIPE) for _ in range(2)]
    logs = [process.communicate()[1].decode() for process in started]
    assert [process.returncode for process in started] == [0, 0]
    assert sum("compiling the CPU kernel forward_3," in log for log in logs) == 1
