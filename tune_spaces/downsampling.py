"""Whether, where and how the map is halved between stages of a model of nano's width.

| parameter       | values     | asked where |
|-----------------|------------|-------------|
| num_downsamples | 0, 1, 2    | 0: the flat recipe |
| downsample_kind | map, token | num_downsamples > 0 |
| kernel_size     | 3, 5       | num_downsamples > 0; of the local blocks before the first one |
| depth_before    | 1, 2, 3    | num_downsamples > 0; blocks before the first one; after the last one 3, 2, 1 |

Two downsamplings have one block between them.
"""

RECIPE = "nano"
METRIC, MODE = "val/acc1", "max"
FIRST_POINTS = (
    {"num_downsamples": 0},
    {"num_downsamples": 1, "downsample_kind": "map", "kernel_size": 3, "depth_before": 2},
    {"num_downsamples": 1, "downsample_kind": "token", "kernel_size": 3, "depth_before": 2},
)
COST = "about nano's time, the less the earlier the map is halved"
WIDTH, NUM_HEADS, NUM_BLOCKS = 96, 3, 4


def space(trial) -> dict:
    num_downsamples = trial.suggest_int("num_downsamples", 0, 2)
    if num_downsamples == 0:
        return {"model": {"form": "flat"}}
    num_stages, kind = num_downsamples + 1, between_stages(trial)
    before = trial.suggest_int("depth_before", 1, NUM_BLOCKS - 1)
    return {
        "model": {
            "form": "pyramid",
            **kind,
            "stage_kinds": ["local"] + ["global"] * num_downsamples,
            "stage_depths": [before, *[1] * (num_downsamples - 1), NUM_BLOCKS - before],
            "stage_embed_dims": [WIDTH] * num_stages,
            "stage_num_heads": [NUM_HEADS] * num_stages,
        }
    }


def between_stages(trial) -> dict:
    return {
        "downsample_kind": trial.suggest_categorical("downsample_kind", ["map", "token"]),
        "kernel_size": trial.suggest_categorical("kernel_size", [3, 5]),
    }
