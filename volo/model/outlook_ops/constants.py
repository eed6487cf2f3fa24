"""Tells torch.compile which functions return constants. Imported where the compiler is needed anyway, because saying so
loads all of it, which takes a process 1.5 s.
"""

import torch

from volo.model.outlook_ops import cpu, fused, told

for function in (cpu.is_available, fused.limit, told.is_exporting, told.announce, told.warn):
    torch.compiler.assume_constant_result(function)
