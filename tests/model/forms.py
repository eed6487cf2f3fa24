"""The forms a model can have, as keyword arguments of `volo.create_model`."""

FLAT = [dict(pooling=pooling) for pooling in ("mean", "cls", "cli")]
PYRAMIDS = [dict(hierarchical=True, downsample_kind=kind) for kind in ("map", "token")]
FORMS = FLAT + PYRAMIDS
