"""What is written out for CPUs against PyTorch's own composition: values and all gradients."""

import copy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from volo.model import cpu_autograd
from volo.model.attention import attend
from volo.model.cpu_autograd import AttentionFunction, MlpFunction, OutlookAttentionFunction
from volo.model.layers import Linear, Mlp
from volo.model.outlook import OutlookAttention


def compared(found, expected, inputs, tolerance: float) -> None:
    weights = torch.linspace(-1, 1, expected.numel()).reshape(expected.shape).to(expected.dtype)
    gradients = [torch.autograd.grad((out * weights).sum(), inputs) for out in (found, expected)]
    for one, other in zip((found, *gradients[0]), (expected, *gradients[1]), strict=True):
        assert one.dtype == other.dtype
        assert (one - other).abs().max() <= tolerance * other.abs().max().clamp(min=1)


@given(N=st.integers(1, 20), d=st.integers(1, 9), M=st.integers(1, 20), seed=st.integers(0, 99))
def test_attention_equals_the_fused_one(N, d, M, seed):
    torch.manual_seed(seed)
    q, k, v = (torch.randn(2, n, 3, d, requires_grad=True).transpose(1, 2) for n in (N, M, M))
    compared(AttentionFunction.apply(q, k, v), F.scaled_dot_product_attention(q, k, v), (q, k, v), 1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_attention_in_half_precision_is_off_by_its_rounding_only(dtype):
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 3, 64, 32).to(dtype).requires_grad_() for _ in range(3))
    with torch.autocast("cpu", dtype):
        compared(attend(q, k, v), F.scaled_dot_product_attention(q, k, v), (q, k, v), 4 * torch.finfo(dtype).eps)


@given(
    shape=st.lists(st.integers(0, 9), min_size=0, max_size=3),
    width=st.integers(1, 40),
    out=st.integers(1, 40),
    bias=st.booleans(),
    seed=st.integers(0, 99),
)
def test_a_linear_layer_equals_pytorchs(shape, width, out, bias, seed):
    torch.manual_seed(seed)
    layer = Linear(width, out, bias=bias)
    x = torch.randn(width, *shape).movedim(0, -1).requires_grad_()  # not contiguous
    found, expected = layer(x), F.linear(x, layer.weight, layer.bias)
    assert found.grad_fn.name() == "LinearFunctionBackward"
    if x.numel():
        compared(found, expected, (x, *layer.parameters()), 1e-5)
    else:
        assert found.shape == expected.shape
        assert torch.autograd.grad(found.sum(), x)[0].shape == x.shape


@pytest.mark.parametrize("shape", [(5, 16), (2, 7, 16), (2, 3, 5, 16)])
def test_the_mlp_equals_its_layers(shape):
    torch.manual_seed(0)
    mlp, x = Mlp(16, 3.0), torch.randn(shape, requires_grad=True)
    compared(mlp(x), mlp.fc2(F.gelu(mlp.fc1(x))), (x, *mlp.parameters()), 1e-5)


@pytest.mark.parametrize("input_dtype", [torch.float32, torch.bfloat16])
def test_the_mlp_under_autocast_equals_its_layers_and_leaves_float32_gradients(input_dtype):
    torch.manual_seed(0)
    mlp, x = Mlp(16, 3.0), torch.randn(4, 9, 16, dtype=input_dtype, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        compared(mlp(x), mlp.fc2(F.gelu(mlp.fc1(x))), (x, *mlp.parameters()), 2**-6)


def test_an_mlp_that_drops_goes_through_its_layers():
    torch.manual_seed(0)
    mlp = Mlp(16, 3.0, drop_rate=0.5)
    assert (mlp.train()(torch.ones(64, 16)) == 0).float().mean() == pytest.approx(0.5, abs=0.1)


@given(
    B=st.integers(1, 7),
    H=st.integers(1, 9),
    W=st.integers(1, 9),
    window=st.sampled_from([(3, 1), (3, 2), (3, 3), (5, 1), (5, 2), (5, 4)]),
    num_heads=st.integers(1, 3),
    head_dim=st.integers(1, 9),
    qkv_bias=st.booleans(),
    pixels=st.sampled_from([1, 20, 768]),
)
def test_outlook_attention_a_few_images_at_a_time_equals_the_reference_in_float64(
    B, H, W, window, num_heads, head_dim, qkv_bias, pixels
):
    torch.manual_seed(B * H + W)
    kernel_size, stride = window
    module = OutlookAttention(num_heads * head_dim, num_heads, kernel_size, stride=stride, qkv_bias=qkv_bias)
    exact = copy.deepcopy(module).double()
    exact.op = "reference"
    x = torch.randn(B, H, W, num_heads * head_dim)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cpu_autograd, "PIXELS_PER_THREAD", pixels)
        found = output_and_gradients(module, x)
    assert found[0].grad_fn.name() == "OutlookAttentionFunctionBackward"
    for one, other in zip(found, output_and_gradients(exact, x.double()), strict=True):
        assert (one - other).abs().max() <= 1e-5 * other.abs().max().clamp(min=1)


def output_and_gradients(module: OutlookAttention, x: torch.Tensor) -> list[torch.Tensor]:
    x = x.transpose(1, 2).contiguous().transpose(1, 2).requires_grad_()  # not contiguous
    out = module(x)
    grad = torch.linspace(0, 1, out.numel()).reshape(out.shape).to(out)  # of one sign: sums do not cancel out
    return [out, *torch.autograd.grad(out, (x, *module.parameters()), grad)]


@pytest.mark.parametrize("what", ["autocast", "float64", "dropout", "another op", "compile"])
def test_outlook_attention_goes_through_its_layers_where(what, monkeypatch):
    monkeypatch.setattr(OutlookAttentionFunction, "apply", None)
    module, x = OutlookAttention(8, 2, attn_drop=0.5 if what == "dropout" else 0.0), torch.randn(2, 5, 5, 8)
    if what == "float64":
        module, x = module.double(), x.double()
    if what == "another op":
        module.op = "dense"
    if what == "compile":
        module = torch.compile(module, backend="aot_eager", fullgraph=True)
    with torch.autocast("cpu", torch.bfloat16, enabled=what == "autocast"):
        module(x).sum().backward()


def test_outlook_attention_of_no_images_gives_zero_gradients():
    module, x = OutlookAttention(8, 2), torch.randn(0, 5, 5, 8, requires_grad=True)
    module(x).sum().backward()
    assert x.grad.shape == x.shape
    assert all((parameter.grad == 0).all() for parameter in module.parameters())


def test_outlook_attention_keeps_what_a_second_backward_pass_needs():
    module, x = OutlookAttention(8, 2), torch.randn(2, 5, 5, 8, requires_grad=True)
    out = module(x)
    first, second = (torch.autograd.grad(out.sum(), x, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second)


def test_in_double_precision_both_pass_gradcheck():
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, 2, 4, 3, dtype=torch.float64, requires_grad=True) for _ in range(3))
    assert torch.autograd.gradcheck(AttentionFunction.apply, (q, k, v))
    shapes = ((3, 4), (6, 4), (6,), (2, 6), (2,))
    assert torch.autograd.gradcheck(
        MlpFunction.apply, [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    )
