"""Optimizer, learning rate, weight decay, batch size, and the averages that AdamW and the EMA keep.

| parameter    | values                     |
|--------------|----------------------------|
| optimizer    | adamw, muon                |
| lr           | 3e-4 to 2e-2, logarithmic  |
| weight_decay | 5e-3 to 0.3, logarithmic   |
| batch_size   | 32, 64, 128                |
| beta2        | 0.95, 0.99, 0.999          |
| ema_decay    | 0, 0.99, 0.999             |
| grad_clip    | 0 (off), 1                 |
"""

RECIPE = "nano"
METRIC, MODE = "val/acc1", "max"
FIRST_POINTS = (
    {"optimizer": "muon", "lr": 8e-3, "weight_decay": 0.05, "batch_size": 64, "beta2": 0.999, "ema_decay": 0.999,
     "grad_clip": 1.0},
    {"optimizer": "adamw", "lr": 2e-3, "weight_decay": 0.05, "batch_size": 64, "beta2": 0.999, "ema_decay": 0.999,
     "grad_clip": 1.0},
)  # fmt: skip
COST = "nano's time, a little more with batches of 32"


def space(trial) -> dict:
    return {
        "optim": {
            "optimizer": trial.suggest_categorical("optimizer", ["adamw", "muon"]),
            "lr": trial.suggest_float("lr", 3e-4, 2e-2, log=True),
            "weight_decay": trial.suggest_float("weight_decay", 5e-3, 0.3, log=True),
            "batch_size": trial.suggest_categorical("batch_size", [32, 64, 128]),
            "beta2": trial.suggest_categorical("beta2", [0.95, 0.99, 0.999]),
            "ema_decay": trial.suggest_categorical("ema_decay", [0.0, 0.99, 0.999]),
            "grad_clip": trial.suggest_categorical("grad_clip", [0.0, 1.0]),
        }
    }
