"""One grid or a pyramid of stages; how wide, how deep, and how much of it local.

| parameter        | values            | asked of |
|------------------|-------------------|----------|
| form             | flat, pyramid     |          |
| width            | 64, 96, 128       | both; of a pyramid's first stage |
| head_dim         | 16, 32            | both; heads = width / head_dim |
| local_depth      | 1 to 3            | flat     |
| global_depth     | 1 to 4            | flat     |
| num_stages       | 2, 3              | pyramid  |
| num_local_stages | 1, 2              | pyramid; the others are global |
| widening         | 1, 1.5, 2         | pyramid; of each stage over the one before, in multiples of 32 |
| depth_1, 2, 3    | 1 to 3            | pyramid; each stage's |
"""

RECIPE = "nano"
METRIC, MODE = "val/acc1", "max"
FIRST_POINTS = (
    {"form": "flat", "width": 96, "head_dim": 32, "local_depth": 1, "global_depth": 2},
    {"form": "pyramid", "width": 96, "head_dim": 32, "num_stages": 2, "num_local_stages": 1, "widening": 1,
     "depth_1": 2, "depth_2": 2},
    {"form": "pyramid", "width": 64, "head_dim": 32, "num_stages": 2, "num_local_stages": 1, "widening": 2,
     "depth_1": 2, "depth_2": 2},
)  # fmt: skip
COST = "from a half of nano's time to about four times as much: wide and deep flat models cost most"


def space(trial) -> dict:
    form = trial.suggest_categorical("form", ["flat", "pyramid"])
    return {"model": flat(trial) if form == "flat" else pyramid(trial)}


def flat(trial) -> dict:
    width, head_dim = _width(trial)
    return {
        "form": "flat",
        "embed_dim": width,
        "num_heads": width // head_dim,
        "local_depth": trial.suggest_int("local_depth", 1, 3),
        "global_depth": trial.suggest_int("global_depth", 1, 4),
    }


def pyramid(trial) -> dict:
    width, head_dim = _width(trial)
    num_stages = trial.suggest_int("num_stages", 2, 3)
    num_local = trial.suggest_int("num_local_stages", 1, 2)
    widening = trial.suggest_categorical("widening", [1, 1.5, 2])
    widths = [round(width * widening**stage / 32) * 32 for stage in range(num_stages)]
    return {
        "form": "pyramid",
        "stage_kinds": ["local"] * num_local + ["global"] * (num_stages - num_local),
        "stage_depths": [trial.suggest_int(f"depth_{stage}", 1, 3) for stage in range(1, num_stages + 1)],
        "stage_embed_dims": widths,
        "stage_num_heads": [stage_width // head_dim for stage_width in widths],
    }


def _width(trial) -> tuple[int, int]:
    return trial.suggest_categorical("width", [64, 96, 128]), trial.suggest_categorical("head_dim", [16, 32])
