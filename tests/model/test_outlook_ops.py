import os
import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import volo
from volo.model.outlook import OutlookAttention
from volo.model.outlook_ops import choose, cpu, outlook_aggregate


@st.composite
def problems(draw):
    """Values and logits in float64, K and stride: odd sizes, maps smaller than a window, odd head sizes."""
    kernel_size, heads = draw(st.sampled_from([1, 3, 5])), draw(st.integers(1, 3))
    stride = draw(st.integers(1, min(3, kernel_size)))
    B, H, W, d = (draw(st.integers(1, top)) for top in (3, 9, 9, 5))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 1000)))
    h, w = -(-H // stride), -(-W // stride)
    values = torch.randn(B, H, W, heads * d, dtype=torch.float64, generator=generator)
    logits = torch.randn(B, h, w, heads, kernel_size**2, kernel_size**2, dtype=torch.float64, generator=generator)
    return values, logits, kernel_size, stride


def output_and_gradients(values, logits, kernel_size, stride, op):
    values, logits = values.clone().requires_grad_(), logits.clone().requires_grad_()
    out = outlook_aggregate(values, logits, kernel_size, stride, op=op)
    weights = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).reshape(out.shape)
    return out, *torch.autograd.grad((out * weights).sum(), (values, logits))


def by_definition(values, logits, kernel_size, stride):
    """OUTLOOK attention as it is defined: a loop over windows, rows and columns."""
    B, H, W, C = values.shape
    heads, padding = logits.shape[3], kernel_size // 2
    out = torch.zeros_like(values).reshape(B, H, W, heads, C // heads)
    per_head = values.reshape(B, H, W, heads, C // heads)
    weights = logits.softmax(-1)
    for top in range(logits.shape[1]):
        for left in range(logits.shape[2]):
            places = [
                (top * stride + i - padding, left * stride + j - padding)
                for i in range(kernel_size) for j in range(kernel_size)
            ]  # fmt: skip
            for p, (y, x) in enumerate(places):
                for q, (v, u) in enumerate(places):
                    if 0 <= y < H and 0 <= x < W and 0 <= v < H and 0 <= u < W:
                        out[:, y, x] += weights[:, top, left, :, p, q, None] * per_head[:, v, u]
    return out.reshape(B, H, W, C)


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_the_reference_is_the_definition(stride):
    torch.manual_seed(0)
    values = torch.randn(2, 5, 4, 6, dtype=torch.float64)
    logits = torch.randn(2, -(-5 // stride), -(-4 // stride), 2, 9, 9, dtype=torch.float64)
    expected = by_definition(values, logits, 3, stride)
    assert torch.allclose(outlook_aggregate(values, logits, 3, stride, op="reference"), expected, atol=1e-12)


@given(problems())
def test_dense_equals_the_reference_with_all_gradients(problem):
    for found, expected in zip(
        output_and_gradients(*problem, op="dense"), output_and_gradients(*problem, op="reference"), strict=True
    ):
        assert torch.allclose(found, expected, rtol=0, atol=1e-10)


def test_equal_logits_average_what_lies_in_the_window():
    out = outlook_aggregate(torch.ones(1, 5, 5, 2), torch.zeros(1, 5, 5, 1, 9, 9), 3)
    assert torch.allclose(out[:, 2, 2], torch.full((1, 2), 9.0))


def test_logits_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"logits must be .* got \(1, 4, 4, 1, 9, 9\)"):
        outlook_aggregate(torch.ones(1, 5, 5, 2), torch.zeros(1, 4, 4, 1, 9, 9), 3)


def test_a_formulation_is_chosen_by_argument_then_environment(monkeypatch):
    monkeypatch.setenv("VOLO_OUTLOOK_OP", "reference")
    values = torch.ones(1, 4, 4, 2)
    assert choose("auto", values, 1) == "reference"
    assert choose("dense", values, 1) == "dense"
    with pytest.raises(ValueError, match="outlook_op must be one of"):
        choose("quick", values, 1)


def test_on_a_cpu_the_kernel_is_chosen_at_every_size_and_stride_but_not_for_float64(monkeypatch):
    monkeypatch.delenv("VOLO_OUTLOOK_OP", raising=False)
    sizes = [(size, stride) for size in (1, 8, 28) for stride in (1, 2)]
    assert {choose("auto", torch.ones(1, size, size, 2), stride) for size, stride in sizes} == {"cpu"}
    assert choose("auto", torch.ones(1, 8, 8, 2, dtype=torch.float64), 1) == "dense"


def test_without_numba_and_elsewhere_the_map_decides(monkeypatch):
    monkeypatch.delenv("VOLO_OUTLOOK_OP", raising=False)
    elsewhere = torch.ones(1, 16, 16, 2, device="meta")
    monkeypatch.setattr(cpu, "is_available", lambda: False)
    for values in (elsewhere, torch.ones(1, 16, 16, 2)):
        assert choose("auto", values, 1) == "dense"
        assert choose("auto", values, 2) == "reference"
    assert choose("auto", torch.ones(1, 17, 16, 2), 1) == "reference"
    with pytest.raises(ValueError, match="outlook_op=cpu needs numba"):
        choose("cpu", torch.ones(1, 4, 4, 2), 1)
    with pytest.raises(ValueError, match="outlook_op=cpu computes on the CPU only, got values on meta"):
        choose("cpu", elsewhere, 1)


def test_the_choice_is_logged_once(monkeypatch, caplog):
    monkeypatch.setattr("volo.model.outlook_ops.told._announced", set())
    with caplog.at_level("INFO", logger="volo"):
        for _ in range(3):
            choose("reference", torch.ones(1, 4, 4, 2), 1)
    assert caplog.messages == ["outlook attention on cpu: the reference formulation"]


def test_what_a_process_compiles_first_is_one_graph_with_the_compiled_kernel():
    """Until then, nothing has told torch.compile which answers are constants."""
    code = (
        "import torch; from volo.ops import outlook_aggregate; "
        "aggregate = torch.compile(outlook_aggregate, backend='aot_eager', fullgraph=True); "
        "inputs = torch.randn(1, 8, 8, 16), torch.randn(1, 8, 8, 2, 9, 9); "
        "assert torch.equal(aggregate(*inputs, 3), outlook_aggregate(*inputs, 3))"
    )
    env = {name: value for name, value in os.environ.items() if name != "VOLO_OUTLOOK_OP"}
    subprocess.run([sys.executable, "-c", code], env=env, check=True)


def test_a_compiled_model_takes_the_formulation_of_the_eager_one(monkeypatch):
    """torch 2.11 tells what it traces that it is exporting, always."""
    monkeypatch.delenv("VOLO_OUTLOOK_OP", raising=False)
    called = []

    def backend(graph, inputs):
        called.extend(str(node.target) for node in graph.graph.nodes if node.op == "call_function")
        return graph

    torch.compile(OutlookAttention(8, 2), backend=backend, fullgraph=True)(torch.zeros(1, 4, 4, 8))
    assert "volo.outlook_cpu.default" in called


def test_exporters_get_the_dense_form_without_fold_or_kernel(monkeypatch):
    monkeypatch.delenv("VOLO_OUTLOOK_OP", raising=False)
    model = volo.create_model("quickstart", num_classes=3).eval()
    images = torch.randn(2, 3, 32, 32)
    program = torch.export.export(model, (images,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    operators = {str(node.target) for node in program.graph.nodes}
    assert not [name for name in operators if "outlook" in name or "col2im" in name]
    more = torch.randn(5, 3, 32, 32)
    assert torch.allclose(program.module()(more), model(more), atol=1e-5)
    assert choose("auto", torch.ones(1, 8, 8, 2), 1) == "cpu"


def test_an_export_leaves_the_dense_form_usable_and_can_be_repeated():
    attention, maps = OutlookAttention(4, 2, op="reference").eval(), torch.randn(2, 11, 13, 4)
    expected = attention(maps)
    attention.op = "dense"
    exports = [torch.export.export(attention, (maps,)).module() for _ in range(2)]
    for run in (*exports, attention):
        assert torch.allclose(run(maps), expected, atol=1e-6)
