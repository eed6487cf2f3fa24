"""Write a checkpoint's model as one file that runs without this project: ONNX, or a program of torch.export.

    volo export --checkpoint outputs/quickstart --output volo.onnx

The file accepts batches of any number of images, of the checkpoint's size. Before it is given its name, it is run and
compared with the model. Its metadata describe how to prepare images, and the class names.
"""

import dataclasses
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal

import tyro

from volo.cli.parse import parse_flags, program
from volo.errors import InputError, brief
from volo.settings.buckets import place_to_read
from volo.settings.paths import file_to_write, local_path

Format = Literal["onnx", "torch-export"]
ENDINGS: dict[Format, str] = {"onnx": ".onnx", "torch-export": ".pt2"}
NEEDED_FOR_ONNX = ("onnx", "onnxscript", "onnxruntime")


@dataclasses.dataclass(frozen=True)
class Flags:
    checkpoint: str
    """A run folder (its best checkpoint, otherwise its newest), its best or last, a checkpoint folder, or a single
    model.safetensors or .pt."""
    output: str
    """The file, ending in .onnx or .pt2 (torch-export); an existing one is replaced."""
    format: Annotated[Format | None, tyro.conf.arg(metavar="{onnx,torch-export}")] = None
    """Default: by the ending of --output."""

    def check(self) -> Format:
        """The format to write. Raises InputError for values out of range."""
        place_to_read(self.checkpoint, "--checkpoint")
        said = next((name for name, ending in ENDINGS.items() if self.output_file.suffix == ending), None)
        if said is None:
            endings = " or ".join(f"{ending} ({name})" for name, ending in ENDINGS.items())
            raise InputError(f"--output must name a file ending in {endings}, got {brief(self.output)}")
        if self.format not in (None, said):
            raise InputError(
                f"--output must end in {ENDINGS[self.format]} with --format {self.format}, got {brief(self.output)}; "
                "drop --format, or rename the output"
            )
        file_to_write(self.output, "--output")
        if said == "onnx" and (missing := [name for name in NEEDED_FOR_ONNX if find_spec(name) is None]):
            raise InputError(
                f"--format onnx needs {', '.join(NEEDED_FOR_ONNX)}, got no {', '.join(missing)}; install them with "
                f"pip install {' '.join(NEEDED_FOR_ONNX)}"
            )
        return said

    @property
    def output_file(self) -> Path:
        return local_path(self.output, "--output")


def main(argv: Sequence[str]) -> None:
    flags = parse_flags(Flags, argv, prog=program("export"), description=__doc__)
    form = flags.check()
    from volo.analysis.export import TOLERANCE, export_model
    from volo.runs import checkpoint

    path = checkpoint.find(flags.checkpoint)
    print(f"exporting {path}", flush=True)
    exported = export_model(path, flags.output_file, form)
    print(
        f"{exported.description}, {exported.size:,} bytes\n"
        f"largest difference of logits: {exported.difference:.1e}, which is {exported.relative_difference:.1e} of the "
        f"largest logit (at most {TOLERANCE:.0e})\n"
        f"exported model: {flags.output_file}",
        flush=True,
    )
