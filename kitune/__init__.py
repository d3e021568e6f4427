"""kitune: fine-tune pretrained text encoders on your own data."""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from kitune.diagnosis import doctor
    from kitune.errors import UserError
    from kitune.estimators import TextClassifier, TextRegressor
    from kitune.facts import inspect
    from kitune.finetune import Run, train
    from kitune.predict import Model, load
    from kitune.repeat import Repeats, cross_validate, train_seeds

__all__ = [
    "Model",
    "Repeats",
    "Run",
    "TextClassifier",
    "TextRegressor",
    "UserError",
    "__version__",
    "cross_validate",
    "doctor",
    "inspect",
    "load",
    "train",
    "train_seeds",
]

_HOMES = {
    "Run": "kitune.finetune",
    "train": "kitune.finetune",
    "Model": "kitune.predict",
    "load": "kitune.predict",
    "doctor": "kitune.diagnosis",
    "inspect": "kitune.facts",
    "UserError": "kitune.errors",
    "Repeats": "kitune.repeat",
    "cross_validate": "kitune.repeat",
    "train_seeds": "kitune.repeat",
    "TextClassifier": "kitune.estimators",
    "TextRegressor": "kitune.estimators",
}


def __dir__() -> list[str]:
    """With the names that are not imported yet, for completion."""
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: `kitune --help` must not wait for torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'kitune' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)
