"""The operator of VOLO, for models of your own: `volo.ops.outlook_aggregate`, differentiable, on CPUs and GPUs.

`volo.OutlookAttention` is the layer around it, with its linear layers. `volo.ops.accelerate` puts that layer into a
model of timm's.
"""

from volo.model.acceleration import accelerate
from volo.model.outlook_ops import outlook_aggregate

__all__ = ["accelerate", "outlook_aggregate"]
