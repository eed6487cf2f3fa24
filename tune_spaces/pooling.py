"""How a flat model pools its tokens for the head.

| parameter   | values         | asked where |
|-------------|----------------|-------------|
| pooling     | mean, cls, cli |             |
| class_depth | 1, 2, 3        | pooling=cli |

Five points in all: --sampler grid tries each once.
"""

RECIPE = "nano"
METRIC, MODE = "val/acc1", "max"
FIRST_POINTS = ({"pooling": "mean"}, {"pooling": "cls"}, {"pooling": "cli", "class_depth": 2})
COST = "nano's time; cls a little more, cli a class-attention block's for each of class_depth"


def space(trial) -> dict:
    return {"model": {"form": "flat", **pooled(trial)}}


def pooled(trial) -> dict:
    pooling = trial.suggest_categorical("pooling", ["mean", "cls", "cli"])
    if pooling == "cli":
        return {"pooling": pooling, "class_depth": trial.suggest_int("class_depth", 1, 3)}
    return {"pooling": pooling}
