"""The compiled form of the trees, 20 times as fast as the library that grew them; used only where the two agree."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from training.arrays import Floats, Singles
from training.trees.engines import Reference, Trees
from training.trees.tree_format import NotCompilable

if TYPE_CHECKING:
    from training.trees.bitvector_tables import Prepared


logger = logging.getLogger("paceline.model")


class CompiledTrees:
    """The same trees as tables that `kernel.py` evaluates, 64 rows at a time; releases the GIL.

    Args:
        prepared: tables that are made already; if the text's are not among them they are made here, which is slow.

    Raises:
        NotCompilable: the text is damaged, or has something that the kernel cannot do.
        ImportError and others: numba is missing, or cannot compile on this machine.
    """

    def __init__(self, text: str, prepared: Prepared | None = None) -> None:
        from training.trees import bitvector_tables

        ready = (prepared or {}).get(bitvector_tables.digest(text)) or bitvector_tables.ready(text)
        if isinstance(ready, str):
            raise NotCompilable(ready)
        from training.trees import kernel  # imports numba, half a second that only processes with a model should spend

        self._n_features, self._tables = ready
        self._evaluate: Callable[..., Floats] = kernel.compiled()

    def predict(self, rows: Singles) -> Floats:
        """(n, features) → (n,) what the trees multiply the expectation with. Raises: ValueError, another shape."""
        rows = np.require(rows, np.float32, ("C", "A", "W"))  # the one memory layout that is compiled
        if rows.ndim != 2 or rows.shape[1] != self._n_features:
            raise ValueError(f"rows have shape {rows.shape}, but the trees need (n, {self._n_features})")
        return self._evaluate(rows, *self._tables)


Form = Callable[[Reference, Singles], Trees]
"""(reference, rows to test on) → the form of the trees that predicts."""


def fastest(reference: Reference, rows: Singles, prepared: Prepared | None = None) -> Trees:
    """The compiled form if it can be made and agrees with the reference on `rows`; else the reference, and a log line.

    Does not raise what the compiler may raise, since predictions are possible without it.
    """
    try:
        compiled = CompiledTrees(reference.text, prepared)
        said, wanted = compiled.predict(rows), reference.predict(rows)
        agrees = np.allclose(said, wanted, rtol=reference.agreement, atol=0, equal_nan=True)
    except NotCompilable as reason:
        logger.warning("%s: the trees cannot be compiled: %s", _slow(reference), reason)
        return reference
    except Exception as error:  # numba has many kinds of errors, and none is a reason to have no model
        logger.warning("%s: compiling the trees failed, is numba installed? %r", _slow(reference), error)
        return reference
    if not agrees:
        logger.error("%s: the compiled trees differ from it on golden rows; report this as a bug", _slow(reference))
        return reference
    return compiled


def _slow(reference: Reference) -> str:
    return f"predicting with {reference.engine} itself, which takes 20 times as long"
