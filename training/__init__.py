"""What the system learns. Importing this is cheap: each name loads its module when it is first used."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from training.etl import Imported, Source, import_file, import_frame, is_imported, known_sources
    from training.features import Confidence, Encoder
    from training.files import Unreadable
    from training.history import newest_day, read_history
    from training.market import performance
    from training.mirrors import redis_key
    from training.model import Columns, Explanation, Model, ModelRefused, ModelUnavailable, Prediction
    from training.nightly import AnotherNight, NothingToLearn, first_model
    from training.publish import UnknownVersion, activate, announce, fetch, model_key, publish_version
    from training.registry import as_of, current, live_at
    from training.settings import ModelSettings, model_settings

_HOMES = {
    "training.etl": (
        "Imported",
        "Source",
        "import_file",
        "import_frame",
        "is_imported",
        "known_sources",
    ),
    "training.features": ("Confidence", "Encoder"),
    "training.files": ("Unreadable",),
    "training.history": ("newest_day", "read_history"),
    "training.market": ("performance",),
    "training.model": ("Columns", "Explanation", "Model", "ModelRefused", "ModelUnavailable", "Prediction"),
    "training.nightly": ("AnotherNight", "NothingToLearn", "first_model"),
    "training.mirrors": ("redis_key",),
    "training.publish": ("UnknownVersion", "activate", "announce", "fetch", "model_key", "publish_version"),
    "training.registry": ("as_of", "current", "live_at"),
    "training.settings": ("ModelSettings", "model_settings"),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'training' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME_OF[name]), name)


__all__ = [
    "AnotherNight",
    "Columns",
    "Confidence",
    "Encoder",
    "Explanation",
    "Imported",
    "Model",
    "ModelRefused",
    "ModelSettings",
    "ModelUnavailable",
    "NothingToLearn",
    "Prediction",
    "Source",
    "UnknownVersion",
    "Unreadable",
    "activate",
    "announce",
    "as_of",
    "current",
    "fetch",
    "first_model",
    "import_file",
    "import_frame",
    "is_imported",
    "known_sources",
    "live_at",
    "model_key",
    "model_settings",
    "newest_day",
    "performance",
    "publish_version",
    "read_history",
    "redis_key",
]
