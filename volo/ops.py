"""The operator of VOLO, for models of your own: `volo.ops.outlook_aggregate`, differentiable, on CPUs and GPUs.

`volo.OutlookAttention` is the layer around it, with its linear layers.
"""

from volo.model.outlook_ops import outlook_aggregate

__all__ = ["outlook_aggregate"]
