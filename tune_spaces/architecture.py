"""Pooling, hierarchy, downsampling and mixing together: each is asked only where it means something.

| part         | asked where | its table            |
|--------------|-------------|----------------------|
| form         |             | hierarchy.py         |
| widths, depths, heads | of either form | hierarchy.py |
| pooling      | flat        | pooling.py           |
| downsampling | pyramid     | downsampling.py: downsample_kind, kernel_size |
| mixing       |             | mix.py               |
"""

from tune_spaces import downsampling, hierarchy, mix, pooling

RECIPE = "nano"
METRIC, MODE = "val/acc1", "max"
_FLAT, _PYRAMID, _ = hierarchy.FIRST_POINTS
_UNMIXED, _CUTMIX, _ = mix.FIRST_POINTS
_MAP = {"downsample_kind": "map", "kernel_size": 3}
FIRST_POINTS = (
    {**_FLAT, "pooling": "mean", **_UNMIXED},
    {**_PYRAMID, **_MAP, **_UNMIXED},
    {**_FLAT, "pooling": "mean", **_CUTMIX},
)
COST = "from a half of nano's time to about four times as much"


def space(trial) -> dict:
    form = trial.suggest_categorical("form", ["flat", "pyramid"])
    if form == "flat":
        model = {**hierarchy.flat(trial), **pooling.pooled(trial)}
    else:
        model = {**hierarchy.pyramid(trial), **downsampling.between_stages(trial)}
    return {"model": model, **mix.space(trial)}
