"""Tells torch.compile which functions return constants. Imported while it traces, and only then: the functions that say
so load the whole compiler, which takes a process 1.5 s.
"""

import torch

from volo.model.outlook_ops import cpu, fused, told

for function in (cpu.is_available, fused.limit, told.is_exporting, told.announce, told.warn):
    torch.compiler.assume_constant_result(function)
