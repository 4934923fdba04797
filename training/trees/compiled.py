"""The trees in their compiled form, 20 × as fast as the library that grew them, as far as the two agree."""

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
    """The same trees as tables that `kernel.py` walks through, 64 rows at a time; releases the GIL.

    Args:
        prepared: tables that are made already; what is not among them is made here, which takes a while.

    Raises:
        NotCompilable: the text is damaged, or says something that the kernel cannot do.
        ImportError and others: numba is not there, or cannot compile here.
    """

    def __init__(self, text: str, prepared: Prepared | None = None) -> None:
        from training.trees import bitvector_tables

        ready = (prepared or {}).get(bitvector_tables.digest(text)) or bitvector_tables.ready(text)
        if isinstance(ready, str):
            raise NotCompilable(ready)
        from training.trees import kernel  # numba: half a second that only a process with a model should pay

        self._n_features, self._tables = ready
        self._evaluate: Callable[..., Floats] = kernel.compiled()

    def predict(self, rows: Singles) -> Floats:
        rows = np.require(rows, np.float32, ("C", "A", "W"))  # the one form that is compiled
        if rows.ndim != 2 or rows.shape[1] != self._n_features:
            raise ValueError(f"rows of shape {rows.shape}, where the trees want (n, {self._n_features})")
        return self._evaluate(rows, *self._tables)


Form = Callable[[Reference, Singles], Trees]
"""Which form of the trees predicts: of the reference, tried on some rows."""


def fastest(reference: Reference, rows: Singles, prepared: Prepared | None = None) -> Trees:
    """The compiled form if there is one and it agrees with the reference on `rows`, else the reference and a log line.

    Never raises what a compiler may: whoever asks wants predictions.
    """
    try:
        compiled = CompiledTrees(reference.text, prepared)
        said, wanted = compiled.predict(rows), reference.predict(rows)
        agrees = np.allclose(said, wanted, rtol=reference.agreement, atol=0, equal_nan=True)
    except NotCompilable as reason:
        logger.warning("%s itself predicts, at 20 × the time: %s", reference.engine, reason)
        return reference
    except Exception as error:  # numba's family is large, and none of it is a reason to have no model
        logger.warning("%s itself predicts, at 20 × the time: no compiled form here: %r", reference.engine, error)
        return reference
    if not agrees:
        logger.error("%s itself predicts, at 20 × the time: the compiled form differs on golden rows", reference.engine)
        return reference
    return compiled
