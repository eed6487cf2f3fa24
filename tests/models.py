"""Checkpoints of fresh models: where a test needs weights, not good ones."""

from pathlib import Path

import safetensors.torch
import torch

from volo.model.build import model_for
from volo.runs import checkpoint
from volo.runs.model_file import Description
from volo.settings.config import build_settings

FLAT = dict(variant="quickstart", embed_dim=32, stem_channels=(8, 16))
PYRAMID = dict(form="pyramid", variant="quickstart", stage_embed_dims=(32, 32), stem_channels=(8, 16))


def save_model(
    run_dir: Path,
    class_names: tuple[str, ...],
    *,
    seed: int = 0,
    model_settings: dict | None = None,
    split_hash: str = "hash",
    **data,
) -> Path:
    """The checkpoint folder of an untrained model, as a run would have left it. `data` are data settings."""
    values = {"model": model_settings or FLAT, "data": {"dataset": "imagefolder", **data}}
    settings = build_settings(values).resolved()
    torch.manual_seed(seed)
    model = model_for(settings, len(class_names))
    description = Description(settings, class_names, split_hash, step=seed, epoch=0)
    return checkpoint.save(run_dir, model.state_dict(), description, {}, total_steps=1)


def recast(source: Path, file: Path, dtype: torch.dtype) -> Path:
    """A copy of a model, as a .safetensors or .pt, with all weights of another type."""
    weights, description = checkpoint.load_model(source)
    others = {name: tensor.to(dtype) for name, tensor in weights.items()}
    if file.suffix == ".pt":
        torch.save({**description.to_plain(), "model": others}, file)
    else:
        safetensors.torch.save_file(others, file, description.to_metadata())
    return file
