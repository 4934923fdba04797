"""Compiles functions to machine code with numba, cached on disk where possible."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from numba import njit

logger = logging.getLogger("paceline.model")


def machine_code(function: Callable[..., Any], signature: Any) -> Callable[..., Any]:
    """`function` compiled for one signature, releasing the GIL: at once from numba's cache, else after some seconds.

    The cache is `__pycache__` or, where that cannot be written, the user's cache folder; without it all works, slower.
    """
    try:
        return njit(signature, nogil=True, cache=True)(function)  # type: ignore[no-any-return]
    except Exception as error:  # no folder, a full disk, a damaged file
        logger.info("cannot cache the machine code of %s, compiling it at each start: %r", function.__name__, error)
        return njit(signature, nogil=True)(function)  # type: ignore[no-any-return]
