"""A model in one file: its weights and everything else that inference needs. Reading one never runs code.

It is a copy of a checkpoint's model.safetensors, or a `.pt`: a dictionary of tensors and plain values saved with
`torch.save` (by `export_pt` or anyone else), read with weights_only=True.

    {"format": "volo", "schema_version": 1,
     "model": {name: tensor},          the state_dict
     "config": {"model": {...}, ...},  sections of settings as in config.yaml; missing ones take their defaults
     "class_names": [str, ...],        in the order of the logits
     "split_hash": str, "step": int, "epoch": int,   optional; without the hash the validation split is unknown
     "data_hash": str,                optional; without it the images that were trained on are unknown
     "teacher_hash": str}             optional; without it the teacher's weights are unknown
"""

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
from torch import Tensor

from volo.data.folders.class_names import is_text, plain
from volo.errors import InputError, brief
from volo.model.tensor_files import load_values
from volo.model.weights import is_state_dict
from volo.settings.config import ResolvedSettings, build_settings
from volo.settings.section import MAX_INTEGER

SCHEMA_VERSION = 1
PLAIN = ("format", "split_hash")  # in the metadata of a safetensors file, where all other values are JSON
MAX_NAME = 1000  # characters of a class name; a folder's name has at most 255 bytes
MAX_HASH = 128
MAX_SETTINGS = 1000
PT_SUFFIXES = (".pt", ".pth")


@dataclass(frozen=True)
class Description:
    """What a model file holds besides the weights: enough to rebuild the model and its input.

    `split_hash` is the digest of the train/val split (volo/data/splits.py), `data_hash` of the images that it was
    chosen from (volo/data/contents.py), `teacher_hash` of the weights that taught it (volo/training/teacher.py).
    """

    settings: ResolvedSettings
    class_names: tuple[str, ...]
    split_hash: str
    step: int
    epoch: int
    data_hash: str = ""
    teacher_hash: str = ""

    def to_plain(self) -> dict[str, Any]:
        return {
            "format": "volo",
            "schema_version": SCHEMA_VERSION,
            "config": self.settings.to_dict(),
            "class_names": list(self.class_names),
            "split_hash": self.split_hash,
            "step": self.step,
            "epoch": self.epoch,
            "data_hash": self.data_hash,
            "teacher_hash": self.teacher_hash,
        }

    @classmethod
    def from_plain(cls, values: dict[str, Any]) -> "Description":
        """Raises ValueError for values of the wrong kind, InputError for invalid settings."""
        version = _count(values, "schema_version")
        if not 1 <= version <= SCHEMA_VERSION:
            raise ValueError(f"its schema_version is {version}, this version reads {SCHEMA_VERSION}")
        config = values["config"]
        if not isinstance(config, dict):
            raise ValueError(f"its config must hold sections of settings, got {brief(config)}")
        parts = [config, *config.values()]
        if any(isinstance(part, dict) and len(part) > MAX_SETTINGS for part in parts):
            raise ValueError(f"its config must have at most {MAX_SETTINGS} settings in a section")
        return cls(
            settings=build_settings(config).resolved(),
            class_names=_class_names(values["class_names"]),
            split_hash=_hash(values, "split_hash"),
            step=_count(values, "step"),
            epoch=_count(values, "epoch"),
            data_hash=_hash(values, "data_hash"),
            teacher_hash=_hash(values, "teacher_hash"),
        )

    def to_metadata(self) -> dict[str, str]:
        """The description as text values, which safetensors requires."""
        plain = self.to_plain()
        return {name: value if name in PLAIN else json.dumps(value) for name, value in plain.items()}

    @classmethod
    def from_metadata(cls, metadata: dict[str, str]) -> "Description":
        return cls.from_plain({name: v if name in PLAIN else json.loads(v) for name, v in metadata.items()})


def _hash(values: dict[str, Any], name: str) -> str:
    value = values.get(name, "")
    if not (isinstance(value, str) and len(value) <= MAX_HASH):
        raise ValueError(f"its {name} must be a hash, got {brief(value)}")
    return value


def _count(values: dict[str, Any], name: str) -> int:
    value = values.get(name, 0)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_INTEGER:
        raise ValueError(f"its {name} must be a whole number from 0 on, got {brief(value)}")
    return value


def _class_names(names: Any) -> tuple[str, ...]:
    if not (isinstance(names, list) and names and all(isinstance(name, str) for name in names)):
        raise ValueError("its class_names must be a list of names")
    if wrong := [name for name in names if not is_text(name) or len(name) > MAX_NAME]:
        raise ValueError(
            f"its class_names must be plain text of at most {MAX_NAME:,} characters, got {brief(wrong[0])}"
        )
    name, count = Counter(map(plain, names)).most_common(1)[0]
    if count > 1:
        raise ValueError(f"its class_names must all differ, got {brief(name)} {count:,} times")
    return tuple(names)


def is_model_file(path: Path) -> bool:
    """Whether a file claims to be a model file of this project, not just weights. False if it cannot be read."""
    if not path.is_file():  # reading a pipe or device might never end
        return False
    try:
        if path.suffix in PT_SUFFIXES:
            values = load_values(path, is_mapped=True)
            return isinstance(values, dict) and values.get("format") == "volo"
        with safetensors.safe_open(path, framework="pt") as opened:
            return (opened.metadata() or {}).get("format") == "volo"
    except Exception:  # a foreign or damaged file can raise nearly anything
        return False


def read_model_file(path: Path) -> tuple[dict[str, Tensor], Description]:
    """Weights (on the CPU) and description. Raises InputError for a damaged, truncated or foreign file."""
    is_pt = path.suffix in PT_SUFFIXES
    weights, values = _read_pt(path) if is_pt else _read_safetensors(path)
    try:
        return weights, Description.from_plain(values) if is_pt else Description.from_metadata(values)
    except (KeyError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{path} has a description that cannot be read ({error})") from None


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safetensors.safe_open(path, framework="pt") as opened:
            metadata = opened.metadata() or {}
            weights = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except (safetensors.SafetensorError, OSError) as error:
        raise InputError(f"{path} must be a model file of this project, got no safetensors file ({error})") from None
    if metadata.get("format") != "volo":
        raise InputError(f"{path} must be a model file of this project, got one without a description")
    return weights, metadata


def _read_pt(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    try:
        values = load_values(path)
    except Exception as error:  # a foreign or damaged file can raise nearly anything
        reason = f"{type(error).__name__}: {error}".partition(". ")[0]
        raise InputError(
            f"{path} must be a complete file of only tensors and plain values ({reason}); no code in it was run"
        ) from None
    needed = ("format", "schema_version", "model", "config", "class_names")
    missing = [key for key in needed if not isinstance(values, dict) or key not in values]
    if missing or values["format"] != "volo":
        raise InputError(
            f"{path} must be a dictionary with format 'volo' and the keys {', '.join(needed)}, got one without "
            f"{', '.join(missing) or 'that format'}; volo.runs.checkpoint.export_pt writes such a file"
        )
    weights = values.pop("model")
    if not is_state_dict(weights):
        raise InputError(f"{path} must hold a state_dict of tensors as 'model', got other values in it")
    return dict(weights), values
