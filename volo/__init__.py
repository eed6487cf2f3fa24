"""VOLO image classifiers: train, tune and explain them on one machine or a Ray cluster.

    import volo
    classifier = volo.load("outputs/quickstart")     a run folder, a checkpoint, a model.safetensors or a .pt
    classifier.predict("photo.jpg")                  [("owl", 0.93), ("cat", 0.04), ...]

`volo.create_model` makes a new model of a named size. `volo.OutlookAttention` is its attention layer, for models of
your own, and `volo.ops.outlook_aggregate` the operator in it.

Importing the package imports neither torch nor ray; the first use of a name that needs them does.
"""

from importlib import import_module

__version__ = "0.1.0"

_LAZY = {
    "create_model": "volo.model.build",
    "load": "volo.analysis.classifier",
    "Classifier": "volo.analysis.classifier",
    "InputError": "volo.errors",
    "TrainingError": "volo.errors",
    "Settings": "volo.settings.config",
    "OutlookAttention": "volo.model.outlook",
}
_LAZY_MODULES = ("ops",)

__all__ = ["__version__", *_LAZY, *_LAZY_MODULES]


def __getattr__(name: str):
    if name in _LAZY_MODULES:
        return import_module(f"volo.{name}")
    if name not in _LAZY:
        raise AttributeError(f"module 'volo' has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
