"""VOLO image classifiers: train, tune and explain them on one machine or a Ray cluster.

    import volo
    classifier = volo.load("outputs/quickstart")     a run folder, a checkpoint, a model.safetensors or a .pt
    classifier.predict("photo.jpg")                  [("owl", 0.93), ("cat", 0.04), ...]

`volo.create_model` makes a fresh model of a named size.

Importing the package imports neither torch nor ray; both come with the first use of a name that needs them.
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
}

__all__ = ["__version__", *_LAZY]


def __getattr__(name: str):
    if name not in _LAZY:
        raise AttributeError(f"module 'volo' has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
