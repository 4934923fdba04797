"""A model version: encoder, trees and manifest as one signed bundle, tested in a child process before it is used."""

from __future__ import annotations

from typing import Any

FORMERLY_HERE = ("Columns", "Explanation")
"""Classes that travel between processes under a name that the previous release knows: see `ledger.former_names`."""


def __getattr__(name: str) -> Any:
    if name not in FORMERLY_HERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from training.model import model

    return getattr(model, name)
