"""What the parent of forked jobs imports. It loads the CPU kernels, compiled, and runs nothing: it has one thread."""

import volo.model.outlook_ops.constants
import volo.training.launch  # noqa: F401
from tests.faults.tools import forked  # noqa: F401
from volo.model.outlook_ops.cpu_kernels import address

for name in ("forward_3", "backward_3"):
    address(name)
