"""Checks what this machine's CPU computes fast."""

import torch

from volo.doctor.findings import Finding, ok
from volo.settings.config import Settings
from volo.training.precision import capability, check_precision, computes_bf16


def check_cpu(settings: Settings) -> Finding:
    """Raises InputError for a training on this CPU that it would hold up."""
    if settings.run.device == "cpu" or not torch.cuda.is_available():
        check_precision(settings, torch.device("cpu"))
    found = f"{torch.get_num_threads()} cores, {capability()}"
    return ok("CPU", found if computes_bf16() else f"{found}, which has to imitate bfloat16: train without --use-amp")
