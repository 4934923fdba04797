"""A version: one signed bundle, tried in a child process before anybody trusts it."""

from __future__ import annotations

from typing import Any

FORMERLY_HERE = ("Columns", "Explanation")
"""Classes that travel between processes, by the name that the version before knows: see `ledger.former_names`."""


def __getattr__(name: str) -> Any:
    if name not in FORMERLY_HERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from training.model import model

    return getattr(model, name)
