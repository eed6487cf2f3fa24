"""The analyses in this process, without Ray."""

from collections.abc import Sequence
from pathlib import Path

import torch

from volo.analysis.job import analyse
from volo.analysis.subject import compute_logits, load_subject, open_view


def analyse_here(
    path: Path, analyses: Sequence[str], output_dir: Path, *, split: str, data_dir: str | None, device: str
) -> Path:
    """As `analyse`, on the GPU where there is one and `device` allows. Returns the report."""
    subject = load_subject(path)
    use_gpu = device != "cpu" and torch.cuda.is_available()

    def logits(name: str):
        view = open_view(subject.description, name, data_dir)
        return compute_logits(subject, view, torch.device("cuda" if use_gpu else "cpu"))

    return analyse(path, analyses, output_dir, split=split, data_dir=data_dir, compute_logits=logits)
