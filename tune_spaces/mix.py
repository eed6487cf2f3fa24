"""Mixing of images and labels.

| parameter       | values                      | asked where |
|-----------------|-----------------------------|-------------|
| mixing          | none, mixup, cutmix, both   |             |
| mixup_alpha     | 0.1 to 1                    | mixing is mixup or both |
| cutmix_alpha    | 0.1 to 1                    | mixing is cutmix or both |
| mix_prob        | 0.2 to 1 in steps of 0.2    | mixing is not none |
| label_smoothing | 0 to 0.2 in steps of 0.05   |             |
"""

RECIPE = "nano"
METRIC, MODE = "val/acc1", "max"
FIRST_POINTS = (
    {"mixing": "none", "label_smoothing": 0.1},
    {"mixing": "cutmix", "cutmix_alpha": 1.0, "mix_prob": 0.4, "label_smoothing": 0.1},
    {"mixing": "both", "mixup_alpha": 0.8, "cutmix_alpha": 1.0, "mix_prob": 1.0, "label_smoothing": 0.1},
)
COST = "nano's time; mixing costs none, but learns slower: short trials favour little of it"


def space(trial) -> dict:
    mixing = trial.suggest_categorical("mixing", ["none", "mixup", "cutmix", "both"])
    augment = {"mixup_alpha": 0.0, "cutmix_alpha": 0.0, "mix_prob": None}
    if mixing in ("mixup", "both"):
        augment["mixup_alpha"] = trial.suggest_float("mixup_alpha", 0.1, 1.0)
    if mixing in ("cutmix", "both"):
        augment["cutmix_alpha"] = trial.suggest_float("cutmix_alpha", 0.1, 1.0)
    if mixing != "none":
        augment["mix_prob"] = trial.suggest_float("mix_prob", 0.2, 1.0, step=0.2)
    augment["label_smoothing"] = trial.suggest_float("label_smoothing", 0.0, 0.2, step=0.05)
    return {"augment": augment}
