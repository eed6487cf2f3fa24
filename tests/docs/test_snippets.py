"""The Python of the documents is run as it stands; what prepares an image for an exported model sees odd images as
`volo.load` does."""

import contextlib
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.export import ExportedProgram

import tune_spaces
import volo
from tests.data.folders.test_imagefolder import sixteen_bit_png
from tests.docs.pages import PAGES, python_of, spans
from tests.models import FLAT, save_model
from volo.cli import export
from volo.cli.outcome import exit_code
from volo.settings.config import build_settings
from volo.tuning.search.spaces import check_space, load_space

SNIPPETS = python_of("docs/export.md")
CALLS = sorted({span for page in PAGES for span in spans(page) if span.startswith("volo.create_model(")})


def snippet_with(code: str) -> str:
    [snippet] = [snippet for snippet in SNIPPETS if code in snippet]
    return snippet


PREPARATION = snippet_with("def prepared(")
MODELS = {
    "crop": dict(seed=7, mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7)),
    "squash": dict(seed=8, image_size=30, resize="squash"),
    "less": dict(seed=9, image_size=24, crop_pct=0.8),
}
NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 70, 4), dtype=np.uint8))
COLORS = NOISE.convert("RGB")


def upside_down() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


def saved(image: Image.Image, form: str, **options) -> bytes:
    with io.BytesIO() as file:
        image.save(file, form, **options)
        return file.getvalue()


def sixteen_bits() -> Image.Image:
    return Image.fromarray(np.random.default_rng(1).integers(0, 65536, (50, 70), dtype=np.uint16))


ODD: dict[str, Callable[[], bytes]] = {
    "a photograph": lambda: saved(COLORS, "JPEG"),
    "on its side": lambda: saved(COLORS, "JPEG", exif=upside_down()),
    "transparent": lambda: saved(NOISE, "PNG"),
    "transparent gray": lambda: saved(NOISE.convert("LA"), "WEBP"),
    "a transparent entry of a palette": lambda: saved(COLORS.convert("P"), "PNG", transparency=7),
    "a transparent color": lambda: saved(Image.new("RGB", (9, 9), "red"), "PNG", transparency=(255, 0, 0)),
    "frames": lambda: saved(COLORS, "GIF", save_all=True, append_images=[COLORS.rotate(90)]),
    "gray": lambda: saved(COLORS.convert("L"), "JPEG"),
    "black and white": lambda: saved(COLORS.convert("1"), "PNG"),
    "gray of 16 bits": lambda: saved(sixteen_bits(), "PNG"),
    "gray of 16 bits on its side": lambda: saved(sixteen_bits(), "TIFF", exif=upside_down()),
    "color of 16 bits": lambda: sixteen_bit_png(3),
    "CMYK": lambda: saved(COLORS.convert("CMYK"), "JPEG"),
    "one pixel": lambda: saved(COLORS.crop((0, 0, 1, 1)), "PNG"),
    "very wide": lambda: saved(COLORS.resize((3000, 7)), "PNG"),
    "very tall": lambda: saved(COLORS.resize((7, 3000)), "PNG"),
}


@pytest.fixture(scope="module", params=MODELS)
def run_only(request, tmp_path_factory) -> Path:
    """A folder with a run, as the snippets find theirs."""
    folder = tmp_path_factory.mktemp(request.param)
    save_model(folder / "outputs" / "quickstart", ("cat", "dog", "owl"), model_settings=FLAT, **MODELS[request.param])
    return folder


@pytest.fixture(scope="module")
def place(run_only) -> Path:
    """With what was exported of the run."""
    for name in export.NEEDED_FOR_ONNX:
        pytest.importorskip(name)
    for name in ("volo.onnx", "volo.pt2"):
        flags = ["--checkpoint", str(run_only / "outputs" / "quickstart"), "--output", str(run_only / name)]
        assert exit_code(export.main, flags) == 0
    return run_only


def run(snippet: str, names: dict) -> str:
    """Runs it as one goes on typing: `names` are what is known from the snippets before."""
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(snippet, names)
    return printed.getvalue().strip()


@pytest.fixture(scope="module")
def load_once() -> Callable[..., ExportedProgram]:
    """torch.export.load, which reads a file the first time only: it takes longer than all else here."""
    load, known = torch.export.load, {}

    def loaded(path: str, extra_files: dict[str, str]) -> ExportedProgram:
        if (place := Path(path).resolve()) not in known:
            known[place] = load(path, extra_files=extra_files), extra_files
        program, found = known[place]
        extra_files.update(found)
        return program

    return loaded


@pytest.mark.parametrize("name", ODD)
def test_every_python_snippet_runs_and_agrees_with_volo_load(place, monkeypatch, load_once, name):
    monkeypatch.chdir(place)
    monkeypatch.setattr(torch.export, "load", load_once)
    Path("photo.jpg").write_bytes(ODD[name]())
    expected = dict(volo.load("outputs/quickstart").predict("photo.jpg"))
    names, num_models = {}, 0
    for snippet in SNIPPETS:
        printed = run(snippet, names)
        if (logits := names.pop("logits", None)) is None:
            continue
        num_models += 1
        probabilities = torch.as_tensor(np.asarray(logits)).softmax(1)[0].tolist()
        found = dict(zip(names["meta"]["class_names"], probabilities, strict=True))
        assert found == pytest.approx(expected, abs=1e-4)
        assert printed == max(expected, key=expected.get)
    assert num_models == 2


@pytest.mark.parametrize("run_only", ["crop"], indirect=True)
@pytest.mark.parametrize("page", [page for page in PAGES if python_of(page)])
def test_every_python_block_of_a_page_runs_after_those_before_it(page, place, monkeypatch):
    monkeypatch.chdir(place)
    Path("photo.jpg").write_bytes(ODD["a photograph"]())
    names = {}
    for snippet in python_of(page):
        run(snippet, names)


def test_a_snippet_needs_only_those_before_it_in_its_section(place, monkeypatch):
    """The `.pt2` one without onnxruntime."""
    monkeypatch.chdir(place)
    Path("photo.jpg").write_bytes(ODD["a photograph"]())
    names = {}
    run(PREPARATION, names)
    assert run(snippet_with("torch.export.load"), names) in ("cat", "dog", "owl")


def test_the_search_space_of_the_tuning_page_is_one(tmp_path):
    [code] = python_of("docs/tuning.md")
    (tmp_path / "my_space.py").write_text(code)
    space = load_space(str(tmp_path / "my_space.py"), tune_spaces)
    check_space(space, build_settings({}).to_dict())
    assert space.recipe == "nano"


@pytest.mark.parametrize("mode", ["I", "F", "LAB"])
def test_what_the_preparation_does_not_convert_it_refuses(tmp_path, mode):
    names = {}
    run(PREPARATION, names)
    Image.new(mode, (8, 8)).save(tmp_path / "photo.tif")
    with pytest.raises(ValueError, match=f"to 8 bits first, got mode {mode}"):
        names["prepared"](tmp_path / "photo.tif", {})


FAULTS = {
    "ImageOps.exif_transpose": "",
    "Image.alpha_composite": "(lambda ground, image: image)",
    "/ 257": "/ 300",
    "Image.Resampling.BICUBIC": "Image.Resampling.BILINEAR",
}


@pytest.mark.parametrize("right_line", FAULTS)
def test_a_fault_in_the_preparation_shows_in_one_of_the_odd_images(run_only, monkeypatch, right_line):
    """Otherwise the comparison above would prove nothing."""
    assert right_line in PREPARATION
    monkeypatch.chdir(run_only)
    names, others = {}, {}
    run(PREPARATION, names)
    run(PREPARATION.replace(right_line, FAULTS[right_line]), others)
    classifier = volo.load("outputs/quickstart")
    differing = []
    for name, make in ODD.items():
        Path("photo.jpg").write_bytes(make())
        meta = classifier.data.model_dump(include={"image_size", "resize", "crop_pct", "mean", "std"})
        right, wrong = (prepared("photo.jpg", meta) for prepared in (names["prepared"], others["prepared"]))
        assert np.allclose(right[0], classifier.preprocess("photo.jpg").numpy(), atol=1e-5), name
        differing += [name] if np.abs(right - wrong).max() > 1e-3 else []
    assert differing


@pytest.mark.parametrize("code", CALLS)
def test_calls_in_the_text_run(code):
    assert isinstance(eval(code, {"volo": volo}), torch.nn.Module)
