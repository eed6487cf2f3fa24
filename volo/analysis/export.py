"""Exports a trained model as one file that runs without this project; compared with the model before it is written.

    onnx            for onnxruntime and others; making it needs onnx, onnxscript and onnxruntime (the extra `export`)
    torch-export    a .pt2 for torch.export.load

Both take `images` (batch, in_chans, image_size, image_size) float32, resized and normalized, of any batch, and give
`logits` (batch, classes) float32. Outlook attention is in its dense form: matrix products and scatter-add, no fold and
no operator of this project. What an application needs to know is in the file's metadata:

    image_size, resize, crop_pct     as in volo/settings
    mean, std                        of pixels in [0, 1], one value for each channel: red, green, blue; gray; or others
    class_names                      in the order of the logits
    input_name, output_name          images, logits
    step, volo_version               of the checkpoint, of the project that exported it

In ONNX each is an entry of metadata_props whose value is JSON; in a .pt2 all are one JSON object, the extra file
metadata.json.
"""

import copy
import io
import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from volo import __version__
from volo.analysis.subject import Subject, load_subject
from volo.errors import InferenceError, InputError, writing
from volo.files import replace_synced
from volo.model.outlook import OutlookAttention

INPUT, OUTPUT = "images", "logits"
METADATA_FILE = "metadata.json"
ANY_BATCH = ({0: Dim("batch", min=1)},)
COMPARED_BATCHES = (1, 2, 7)
PREPROCESSING = {"image_size", "resize", "crop_pct", "mean", "std"}
TOLERANCE = 1e-4  # of the largest logit

Run = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        description: Format, input and output, in words.
        size: Of the file, in bytes.
        difference, relative_difference: The largest between its logits and the model's; as a part of the largest
            logit.
    """

    description: str
    size: int
    difference: float
    relative_difference: float


def export_model(path: Path, output: Path, form: str) -> Exported:
    """Writes the model of a checkpoint, after checking that the exported file gives the same logits.

    Args:
        path: A checkpoint folder or a lone model file.
        output: The file; an existing one is replaced by a rename, and kept if anything fails.
        form: One of `FORMATS`.

    Raises:
        InputError: a checkpoint that cannot be used, an output that cannot be written.
        InferenceError: logits that differ by more than TOLERANCE, or a disk that fails.
    """
    subject = load_subject(path)
    check_writable(output)
    encode, load = FORMATS[form]
    content = encode(trace(subject), metadata_of(subject))
    difference, largest = compare(subject.model, load(content), _input_shape(subject))
    if not difference <= TOLERANCE * largest:  # NaN, too, is refused
        raise InferenceError(
            f"an exported model's logits must differ from the model's by at most {TOLERANCE:.0e} of the largest, got a "
            f"difference of {difference:.1e} where the largest is {largest:.1e}; nothing was written"
        )
    with writing("the exported model", output):
        replace_synced(output, content)
    return Exported(_in_words(subject, form), len(content), difference, difference / largest if largest else 0.0)


def trace(subject: Subject) -> ExportedProgram:
    """The model as a graph for any batch, float32, without outlook kernels, and without the paths of source files."""
    model = copy.deepcopy(subject.model).requires_grad_(False)
    for module in model.modules():
        if isinstance(module, OutlookAttention):
            module.op = "dense"
    for parameter in model.parameters():  # torch.export.save warns of other layouts, such as channels last
        parameter.data = parameter.data.contiguous()
    example = torch.zeros(2, *_input_shape(subject))
    program = torch.export.export(model, (example,), dynamic_shapes=ANY_BATCH)
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)
    return program


def metadata_of(subject: Subject) -> dict[str, Any]:
    """Plain values; what they mean stands in the docstring of this module."""
    description = subject.description
    preprocessing = description.settings.data.model_dump(mode="json", include=PREPROCESSING)
    return {
        **preprocessing,
        "class_names": list(description.class_names),
        "input_name": INPUT,
        "output_name": OUTPUT,
        "step": description.step,
        "volo_version": __version__,
    }


@torch.inference_mode()
def compare(model: nn.Module, exported: Run, input_shape: Sequence[int]) -> tuple[float, float]:
    """The largest difference of logits over batches of several sizes of random images, and the largest logit."""
    generator = torch.Generator().manual_seed(0)
    batches = [torch.randn(n, *input_shape, generator=generator) for n in COMPARED_BATCHES]
    expected = torch.cat([model(images) for images in batches])  # (sum of batches, classes)
    found = torch.cat([exported(images) for images in batches])
    assert (found.shape, found.dtype) == (expected.shape, torch.float32)
    return (found - expected).abs().max().item(), expected.abs().max().item()


def check_writable(output: Path) -> None:
    """Raises InputError for a folder that takes no files; leaves nothing in it."""
    try:
        with tempfile.TemporaryFile(dir=output.parent):
            pass
    except OSError as error:
        raise InputError(
            f"--output must lie in a folder that can be written, got {output} ({error.strerror}); choose another"
        ) from None


def _encode_onnx(program: ExportedProgram, metadata: dict[str, Any]) -> bytes:
    """The model in the opset that this PyTorch recommends."""
    exported = torch.onnx.export(
        program, dynamo=True, input_names=[INPUT], output_names=[OUTPUT], dynamic_shapes=ANY_BATCH, verbose=False
    )
    assert exported is not None, "dynamo gives a program"
    model = exported.model_proto
    graph = model.graph
    for part in (graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        part.ClearField("metadata_props")  # the exporter's notes for debugging
        part.ClearField("doc_string")
    del model.metadata_props[:]
    for key, value in metadata.items():
        model.metadata_props.add(key=key, value=json.dumps(value))
    return model.SerializeToString()


def _load_onnx(content: bytes) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run([OUTPUT], {INPUT: images.numpy()})[0])


def _encode_program(program: ExportedProgram, metadata: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    torch.export.save(program, buffer, extra_files={METADATA_FILE: json.dumps(metadata)})
    return buffer.getvalue()


def _load_program(content: bytes) -> Run:
    return torch.export.load(io.BytesIO(content)).module()


FORMATS = {"onnx": (_encode_onnx, _load_onnx), "torch-export": (_encode_program, _load_program)}


def _input_shape(subject: Subject) -> tuple[int, int, int]:
    data = subject.description.settings.data
    return data.in_chans, data.image_size, data.image_size


def _in_words(subject: Subject, form: str) -> str:
    shape, num_classes = ", ".join(map(str, _input_shape(subject))), len(subject.description.class_names)
    return f"{form}: {INPUT} (batch, {shape}) -> {OUTPUT} (batch, {num_classes}), float32"
