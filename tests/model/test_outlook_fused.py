"""The Triton kernels against the published formulation in float64.

Without a GPU they run in Triton's interpreter, which has to be asked for before Triton is imported: in this process
with TRITON_INTERPRET=1, else in one process that the last test starts.
"""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.model.outlook_inputs import assert_close, expected, forward_and_gradients, make_inputs
from volo.model.outlook_ops import choose, fused, outlook_aggregate

pytestmark = pytest.mark.skipif(not find_spec("triton"), reason="the fused kernel needs triton")
ROOT = Path(__file__).parents[2]
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
interpreted = pytest.mark.skipif(not INTERPRETED, reason="runs with TRITON_INTERPRET=1")
on_gpu = pytest.mark.skipif(INTERPRETED or not torch.cuda.is_available(), reason="needs a GPU")


@st.composite
def problems(draw):
    """As small as the interpreter wants them: a program of each kernel takes it half a second."""
    K, (B, heads) = draw(st.sampled_from((1, 3, 3))), draw(st.sampled_from(((1, 1), (1, 3), (2, 1))))
    H, W = (draw(st.integers(1, 4)) for _ in range(2))
    d, stride = draw(st.sampled_from((1, 3, 8, 12, 20))), draw(st.integers(1, K))
    return make_inputs(B, H, W, heads, d, K, stride, scale=draw(st.sampled_from((1.0, 5.0))))


@interpreted
@settings(max_examples=6)
@given(problems())
def test_fused_output_and_gradients_equal_the_reference_in_float64(inputs):
    assert_close(forward_and_gradients(fused.aggregate, *inputs), expected(*inputs), 1e-5)


@interpreted
@pytest.mark.parametrize(("padding", "stride"), [(0, 1), (0, 3), (2, 2), (4, 3)])
def test_fused_takes_any_padding(padding, stride):
    values, _, K, *_ = make_inputs(1, 5, 4, 2, 6)
    h, w = ((size + 2 * padding - K) // stride + 1 for size in (5, 4))
    logits = torch.randn(1, h, w, 2, K * K, K * K, generator=torch.Generator().manual_seed(0), requires_grad=True)
    inputs = values, logits, K, stride, padding
    assert_close(forward_and_gradients(fused.aggregate, *inputs), expected(*inputs), 1e-5)


@interpreted
def test_fused_takes_heads_of_more_channels_than_a_tile():
    inputs = make_inputs(1, 1, 2, 1, 300)
    assert_close(forward_and_gradients(fused.aggregate, *inputs), expected(*inputs), 1e-5)


@interpreted
@pytest.mark.parametrize(
    ("values_dtype", "logits_dtype"),
    [
        (torch.bfloat16, torch.bfloat16),
        (torch.float16, torch.float16),
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float16),
    ],
)
def test_fused_in_half_precision_is_off_by_its_rounding_only(values_dtype, logits_dtype):
    values, logits, *window = make_inputs(1, 3, 4, 2, 6, S=2)
    values, logits = (t.detach().to(u).requires_grad_() for t, u in ((values, values_dtype), (logits, logits_dtype)))
    found = forward_and_gradients(fused.aggregate, values, logits, *window)
    assert [t.dtype for t in found] == [values_dtype, values_dtype, logits_dtype]
    rounding = max(torch.finfo(dtype).eps for dtype in (values_dtype, logits_dtype))  # the interpreter cuts off
    assert_close(found, expected(values, logits, *window), 1e-5 + rounding)


@interpreted
def test_fused_computes_float64_in_float64():
    inputs = make_inputs(1, 4, 3, 2, 6, dtype=torch.float64)
    assert_close(forward_and_gradients(fused.aggregate, *inputs), expected(*inputs), 1e-12)


@interpreted
def test_fused_results_have_the_same_bits_every_time():
    inputs = make_inputs(2, 3, 3, 1, 6)
    first = forward_and_gradients(fused.aggregate, *inputs)
    assert all(map(torch.equal, first, forward_and_gradients(fused.aggregate, *inputs)))


@interpreted
def test_fused_inputs_and_gradients_need_not_be_contiguous():
    values, logits, *window = make_inputs(1, 4, 3, 2, 5)
    strided = [t.detach().transpose(0, -1).contiguous().transpose(0, -1).requires_grad_() for t in (values, logits)]
    assert not any(t.is_contiguous() for t in strided)
    contiguous = forward_and_gradients(fused.aggregate, values, logits, *window)
    assert all(map(torch.equal, contiguous, forward_and_gradients(fused.aggregate, *strided, *window)))
    fused.aggregate(values, logits, *window).sum().backward()  # an expanded gradient


@interpreted
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e30])
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's, in the interpreter
def test_one_bad_logit_spreads_as_far_in_fused_as_in_the_reference(bad):
    values, logits, *window = make_inputs(1, 4, 4, 2, 4, S=2)
    with torch.no_grad():
        logits[0, 0, 1, 1, 4, 5] = bad
    for one, other in zip(
        forward_and_gradients(fused.aggregate, values, logits, *window),
        expected(values, logits, *window),
        strict=True,
    ):
        torch.testing.assert_close(one.double(), other, equal_nan=True, atol=1e-5, rtol=1e-5)


@interpreted
def test_fused_operator_passes_opcheck():
    values, logits, *window = make_inputs(1, 3, 2, 2, 3, S=2)
    torch.library.opcheck(torch.ops.volo.outlook_fused.default, (values, logits, *window))


@interpreted
def test_fused_operator_is_one_node_of_a_compiled_graph():
    values, logits, K, S, _ = make_inputs(1, 3, 4, 2, 4)

    def forced(values, logits):
        return outlook_aggregate(values, logits, K, S, op="fused")

    compiled = torch.compile(forced, backend="aot_eager", fullgraph=True)
    eager = forward_and_gradients(forced, values, logits)
    assert all(map(torch.equal, eager, forward_and_gradients(compiled, values, logits)))


@interpreted
def test_fused_takes_an_empty_batch():
    assert [len(t) for t in forward_and_gradients(fused.aggregate, *make_inputs(0, 4, 4, 2, 8))] == [0, 0, 0]


def test_fused_is_chosen_on_a_gpu_and_falls_back_with_a_warning_for_each_reason(monkeypatch, caplog):
    class Values:
        device, dtype, shape = torch.device("cuda"), torch.bfloat16, (1, 8, 8, 4)

    monkeypatch.delenv("VOLO_OUTLOOK_OP", raising=False)
    monkeypatch.setattr("volo.model.outlook_ops.told._warned", set())
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (9, 0))
    assert choose("auto", Values, 1) == choose("auto", Values, 2) == "fused"
    assert (choose("auto", Values, 1, 5), choose("auto", Values, 2, 5)) == ("dense", "reference")
    monkeypatch.setattr(Values, "dtype", torch.float64)
    assert (choose("auto", Values, 1), choose("auto", Values, 2)) == ("dense", "reference")
    monkeypatch.setattr(Values, "dtype", torch.float16)
    monkeypatch.setattr(fused, "_has_triton", lambda: False)
    assert (choose("auto", Values, 1), choose("auto", Values, 2)) == ("dense", "reference")
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == 2
    assert "fused formulation of outlook attention needs windows of at most 3 x 3, got kernel_size=5" in warnings[0]
    assert "fused formulation of outlook attention needs triton, which is not installed" in warnings[1]


def test_forced_fused_names_its_limit_where_it_cannot_work(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    with pytest.raises(ValueError, match="outlook_op=fused computes on the GPU only, got values on cpu; use auto"):
        choose("fused", torch.ones(1, 4, 4, 2), 1)
    monkeypatch.setenv("VOLO_OUTLOOK_OP", "fused")
    with pytest.raises(ValueError, match="outlook_op=fused computes on the GPU only, got values on meta"):
        choose("auto", torch.ones(1, 4, 4, 2, device="meta"), 1)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    with pytest.raises(ValueError, match=r"outlook_op=fused needs values of float32, .* got torch.int32"):
        choose("fused", torch.ones(1, 4, 4, 2, dtype=torch.int32), 1)
    monkeypatch.setattr(fused, "_has_triton", lambda: False)
    with pytest.raises(ValueError, match="outlook_op=fused needs triton, which is not installed"):
        choose("fused", torch.ones(1, 4, 4, 2), 1)


def test_forced_fused_refuses_an_old_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (7, 5))
    assert "compute capability 8.0 or more, got 7.5" in fused.limit(torch.device("cuda"), torch.float32, 3)


@pytest.mark.skipif(INTERPRETED, reason="needs no interpreter")
def test_fused_kernels_are_imported_on_first_use_only():
    code = "import sys, torch, volo.model.outlook_ops as o; o.fused.limit(torch.device('cpu'), torch.float32, 3)"
    code += "; assert 'volo.model.outlook_ops.triton_kernels' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


@pytest.mark.skipif(INTERPRETED, reason="compiles")
@pytest.mark.parametrize(
    "kernel",
    ["forward_kernel", "values_gradient_kernel", pytest.param("logits_gradient_kernel", marks=pytest.mark.slow)],
)
@pytest.mark.parametrize(
    ("dtype", "K", "S", "head_size"),
    [
        ("bf16", 3, 1, 32),
        pytest.param("fp64", 3, 2, 20, marks=pytest.mark.slow),
        pytest.param("fp32", 1, 1, 1, marks=pytest.mark.slow),
    ],
)
def test_fused_compiles_for_a_gpu_that_is_not_here(kernel, dtype, K, S, head_size, monkeypatch, tmp_path):
    """The interpreter takes more than the compiler does."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    import triton.language as tl
    from triton import compile
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from volo.model.outlook_ops import triton_kernels, triton_launch

    function = getattr(triton_kernels, kernel)
    accumulate, index = (tl.float64, tl.int64) if dtype == "fp64" else (tl.float32, tl.int32)
    h = 8 // S
    constants = triton_launch.constants(8, 8, h, h, 2, head_size, K, S, K // 2, Y=S - 1, X=0)
    constants |= dict(FLOAT=accumulate, INDEX=index)
    planes = "*fp16" if dtype == "bf16" else f"*{dtype}"
    tensors = dict.fromkeys(("values", "logits", "out", "grad", "dvalues", "dlogits"), f"*{dtype}") | {"planes": planes}
    signature = {name: tensors.get(name, "constexpr") for name in function.arg_names}
    source = ASTSource(function, signature, constants)
    compiled = compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": 1})
    assert compiled.asm["cubin"]


@pytest.mark.gpu
@on_gpu
@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        ((8, 28, 28, 6, 32, 3, 2), torch.bfloat16),
        ((4, 33, 17, 3, 40, 3, 1), torch.bfloat16),
        ((4, 33, 17, 3, 80, 3, 1), torch.float32),
        ((2, 8, 8, 6, 32, 3, 1), torch.float16),
    ],
)
def test_fused_equals_the_reference_on_a_gpu(shape, dtype):
    B, H, W, heads, d, K, S = shape
    values, logits, *window = make_inputs(B, H, W, heads, d, K, S, dtype=dtype)
    values, logits = (t.detach().cuda().requires_grad_() for t in (values, logits))
    found = forward_and_gradients(fused.aggregate, values, logits, *window)
    rounding = 0 if dtype == torch.float32 else torch.finfo(dtype).eps / 2
    assert_close(found, expected(values, logits, *window), 1e-5 + rounding)
    assert all(map(torch.equal, found, forward_and_gradients(fused.aggregate, values, logits, *window)))


@pytest.mark.skipif(INTERPRETED, reason="this is that process")
@pytest.mark.parametrize("tests", ["computes or half or bits", pytest.param("fused", marks=pytest.mark.slow)])
def test_fused_passes_in_the_interpreter(tests):
    arguments = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", tests, __file__]
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run(arguments, env=environment, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
