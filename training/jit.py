"""Functions as machine code, from numba's cache where it can be kept."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from numba import njit

logger = logging.getLogger("paceline.model")


def machine_code(function: Callable[..., Any], signature: Any) -> Callable[..., Any]:
    """`function` compiled for one signature, releasing the GIL; from numba's cache, or seconds later.

    The cache is `__pycache__` or, where that cannot be written, the user's cache folder. Nothing depends on it.
    """
    try:
        return njit(signature, nogil=True, cache=True)(function)  # type: ignore[no-any-return]
    except Exception as error:  # no folder, a full disk, a damaged file
        logger.info("compiling %s without a cache: %r", function.__name__, error)
        return njit(signature, nogil=True)(function)  # type: ignore[no-any-return]
