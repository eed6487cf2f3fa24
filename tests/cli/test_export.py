"""`jobs.export` as a user meets it: the file computes what the model does, says what it needs, or is not written."""

import contextlib
import io
import json
import re
import resource
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor

import volo
from tests.cli.test_parse import ROOT
from tests.models import FLAT, PYRAMID, save_model
from volo.analysis import export as library
from volo.cli import export
from volo.cli.outcome import exit_code
from volo.runs import checkpoint

NAMES = ("cat", "dög", '<b>"owl"</b>')
# Odd maps, strides and sizes that are padded; a formulation with fold that the checkpoint asks for.
MODELS = {
    "flat": dict(model_settings=FLAT | dict(outlook_op="reference", drop_path_rate=0.1), seed=7),
    "cli": dict(model_settings=FLAT | dict(pooling="cli"), image_size=30, resize="squash", mean=(0.1, 0.2, 0.3)),
    "pyramid": dict(model_settings=PYRAMID | dict(downsample_kind="token", outlook_stride=2), image_size=36),
}
FORMS = {".onnx": "onnx", ".pt2": "torch-export"}
HOW_READ = ("image_size", "resize", "crop_pct")
METADATA = {
    *HOW_READ, "mean", "std", "class_names", "input_name", "output_name", "step", "volo_version",
}  # fmt: skip


def needs_onnx() -> None:
    for name in export.NEEDED_FOR_ONNX:
        pytest.importorskip(name)


@dataclass(frozen=True)
class Export:
    """A model, the file made of it, and what an application finds in that file."""

    model: volo.Classifier
    file: Path
    printed: list[str]
    run: Callable[[Tensor], Tensor]
    metadata: dict
    operators: set[str]


def read_onnx(file: Path) -> tuple[Callable, dict, set[str]]:
    import onnx
    import onnxruntime

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    graph = onnx.load(file)
    onnx.checker.check_model(graph)
    metadata = {key: json.loads(value) for key, value in session.get_modelmeta().custom_metadata_map.items()}
    operators = {f"{node.domain}::{node.op_type}" for part in (graph.graph, *graph.functions) for node in part.node}
    return lambda images: torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0]), metadata, operators


def read_program(file: Path) -> tuple[Callable, dict, set[str]]:
    extra = {"metadata.json": ""}
    program = torch.export.load(file, extra_files=extra)
    targets = (node.target for node in program.graph.nodes)
    operators = {target.name() for target in targets if isinstance(target, torch._ops.OpOverload)}
    return program.module(), json.loads(extra["metadata.json"]), operators


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("checkpoints")
    return {name: save_model(folder / name, NAMES, **settings).parents[1] for name, settings in MODELS.items()}


def exported_to(output: Path, model: Path, *flags: str) -> int:
    return exit_code(export.main, ["--checkpoint", str(model), "--output", str(output), *flags])


@pytest.fixture(scope="module")
def export_once(checkpoints, tmp_path_factory) -> Callable[[str], tuple[Path, list[str]]]:
    """Exports to a file of a name such as cli.onnx, where that is not done yet: the file and the lines printed."""

    @cache
    def exported(name: str) -> tuple[Path, list[str]]:
        file, printed = tmp_path_factory.mktemp("exported") / name, io.StringIO()
        if file.suffix == ".onnx":
            needs_onnx()
        file.write_text("an earlier file")
        flags = ("--format", FORMS[file.suffix]) if file.stem == "cli" else ()
        with contextlib.redirect_stdout(printed):
            assert exported_to(file, checkpoints[file.stem], *flags) == 0
        return file, printed.getvalue().splitlines()

    return exported


def marked(name: str) -> tuple:
    """Flat and pyramid are exported by each run of the tests."""
    return (pytest.mark.slow,) if name == "cli" else ()


@pytest.fixture(
    scope="module",
    params=[pytest.param(name + ending, marks=marked(name)) for ending in FORMS for name in MODELS],
)
def exported(request, checkpoints, export_once) -> Export:
    file, printed = export_once(request.param)
    read = read_onnx if file.suffix == ".onnx" else read_program
    return Export(volo.load(checkpoints[file.stem]), file, printed, *read(file))


@torch.inference_mode()
def test_batches_of_any_number_give_the_models_logits(exported):
    size = exported.model.data.image_size
    for number, layout in [(1, torch.contiguous_format), (2, torch.channels_last), (5, torch.channels_last)]:
        images = torch.randn(number, 3, size, size).contiguous(memory_format=layout)
        expected, found = exported.model.model(images), exported.run(images)
        assert found.dtype == torch.float32
        assert (found - expected).abs().max() <= 1e-4 * expected.abs().max()


def test_images_of_another_size_are_refused(exported):
    size = exported.model.data.image_size + 4
    with pytest.raises(Exception, match=r"invalid dimensions|Guard failed: images\.size\(\)"):
        exported.run(torch.randn(2, 3, size, size))


def test_the_graph_has_no_fold_and_no_operator_of_our_own(exported):
    assert len(exported.operators) > 5
    assert {name.split("::")[0] for name in exported.operators} == {"" if exported.file.suffix == ".onnx" else "aten"}
    assert [name for name in exported.operators if re.search(r"(?i)col2im|im2col|fold", name)] == []


def test_metadata_say_what_volo_load_knows(exported):
    known, model = exported.metadata, exported.model
    assert known.keys() == METADATA
    assert [known[name] for name in HOW_READ] == [getattr(model.data, name) for name in HOW_READ]
    assert (tuple(known["mean"]), tuple(known["std"])) == (model.data.mean, model.data.std)
    assert tuple(known["class_names"]) == model.class_names == NAMES
    assert (known["input_name"], known["output_name"]) == ("images", "logits")
    assert known["step"] == MODELS[exported.file.stem].get("seed", 0)
    assert known["volo_version"] == volo.__version__


def test_the_last_lines_say_what_was_written_its_size_the_largest_difference_and_where(exported):
    written, difference, place = exported.printed[-3:]
    size = exported.model.data.image_size
    assert f"{FORMS[exported.file.suffix]}: images (batch, 3, {size}, {size}) -> logits (batch, 3), float32" in written
    assert f"{exported.file.stat().st_size:,} bytes" in written
    absolute, relative = re.search(r"logits: (\S+), which is (\S+) of the largest", difference).groups()
    assert 0 <= float(absolute) < 1e-4
    assert 0 <= float(relative) <= 1e-4
    assert place == f"exported model: {exported.file}"


def test_an_earlier_file_is_replaced_nothing_else_is_written_and_no_folder_of_this_machine_is_named(exported):
    assert list(exported.file.parent.iterdir()) == [exported.file]
    content = exported.file.read_bytes()
    assert [place for place in (ROOT, Path(torch.__file__).parent) if str(place).encode() in content] == []


@pytest.fixture
def mine(tmp_path) -> Path:
    """A file that a failing export must leave as it is, alone in its folder."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.pt2").write_text("thesis")
    return tmp_path / "out" / "mine.pt2"


def is_untouched(mine: Path) -> bool:
    return list(mine.parent.iterdir()) == [mine] and mine.read_text() == "thesis"


def test_other_logits_than_the_models_end_with_code_3_and_write_nothing(checkpoints, mine, capsys, monkeypatch):
    encode, load = library.FORMATS["torch-export"]

    def load_other(content: bytes) -> library.Run:
        run = load(content)
        return lambda images: run(images) + 0.01

    monkeypatch.setitem(library.FORMATS, "torch-export", (encode, load_other))
    assert exported_to(mine, checkpoints["flat"]) == 3
    errors = capsys.readouterr().err
    assert re.search(r"must differ .* by at most 1e-04 of the largest, got a difference of 1\.0e-02 where", errors)
    assert is_untouched(mine)


def test_a_model_that_computes_nan_ends_with_code_3_and_writes_nothing(checkpoints, mine, tmp_path, capsys):
    values = torch.load(checkpoint.export_pt(checkpoint.find(checkpoints["flat"]), tmp_path / "a.pt"))
    values["model"]["head.bias"][1] = float("nan")
    torch.save(values, tmp_path / "a.pt")
    assert exported_to(mine, tmp_path / "a.pt") == 3
    assert "got a difference of nan" in capsys.readouterr().err
    assert is_untouched(mine)


def test_a_full_disk_ends_with_code_3_and_leaves_nothing(checkpoints, mine, capsys):
    """A real file-size limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
    try:
        assert exported_to(mine, checkpoints["flat"]) == 3
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "the exported model could not be written" in capsys.readouterr().err
    assert is_untouched(mine)


@pytest.mark.parametrize("name", export.NEEDED_FOR_ONNX)
def test_a_missing_extra_is_named_with_its_remedy_before_anything_is_read(mine, capsys, monkeypatch, name):
    for needed in export.NEEDED_FOR_ONNX:
        monkeypatch.setitem(sys.modules, needed, sys.modules[__name__])
    monkeypatch.setitem(sys.modules, name, None)  # what importing it raises ImportError for
    assert exported_to(mine.with_name("a.onnx"), mine.with_name("no checkpoint")) == 2
    errors = capsys.readouterr().err
    assert f"--format onnx needs onnx, onnxscript, onnxruntime, got no {name}; " in errors
    assert "install them with pip install onnx onnxscript onnxruntime" in errors
    assert is_untouched(mine)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"--output": "{out}/a.bin"}, "--output must name a file ending in .onnx (onnx) or .pt2 (torch-export), got"),
        ({"--output": "{out}/a"}, "--output must name a file ending in"),
        ({"--format": "onnx"}, "--output must end in .onnx with --format onnx, got"),
        ({"--output": "{out}/none/a.pt2"}, "--output must name a file in an existing folder"),
        ({"--output": "{out}/../folder.pt2"}, "--output must name a file in an existing folder"),
        ({"--output": "/proc/a.pt2"}, "--output must lie in a folder that can be written"),
        ({"--checkpoint": "{out}/none"}, "a checkpoint must exist"),
        ({"--checkpoint": "{out}/mine.pt2"}, "mine.pt2"),
    ],
)
def test_wrong_input_ends_with_code_2_and_one_message(checkpoints, mine, capsys, change, message):
    (mine.parents[1] / "folder.pt2").mkdir()
    flags = {"--checkpoint": str(checkpoints["flat"]), "--output": str(mine)}
    flags |= {name: value.format(out=mine.parent) for name, value in change.items()}
    assert exit_code(export.main, [word for pair in flags.items() for word in pair]) == 2
    errors = capsys.readouterr().err
    assert message in errors
    assert errors.count("error: ") == 1
    assert is_untouched(mine)
