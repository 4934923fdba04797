"""Names for array types, and arrays inside JSON documents, exact to the bit and without pickle."""

from __future__ import annotations

import base64
import math
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Singles = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]
Indices = npt.NDArray[np.intp]
Codes = npt.NDArray[np.int32]
Flags = npt.NDArray[np.bool_]

KINDS = ("<f8", "<i4", "<i8")


def to_text(array: npt.NDArray[Any]) -> dict[str, Any]:
    """An array as a JSON document.

    Raises:
        ValueError: its type is not one of KINDS.

    >>> from_text(to_text(np.array([[0.1, 2.0]]))).tolist()
    [[0.1, 2.0]]
    """
    kind = array.dtype.newbyteorder("<").str
    if kind not in KINDS:
        raise ValueError(f"arrays of type {kind} cannot be stored, only {', '.join(KINDS)}")
    data = base64.b64encode(np.ascontiguousarray(array, dtype=kind).tobytes()).decode()
    return {"dtype": kind, "shape": list(array.shape), "data": data}


def from_text(document: dict[str, Any]) -> npt.NDArray[Any]:
    """The array that `to_text` has written.

    Raises:
        ValueError, KeyError: the document is not one that `to_text` writes.
    """
    kind, shape = document["dtype"], document["shape"]
    if kind not in KINDS:
        raise ValueError(f"an array has type {kind}, not one of {', '.join(KINDS)}")
    data = base64.b64decode(document["data"], validate=True)
    if len(data) != math.prod(shape) * np.dtype(kind).itemsize:
        raise ValueError("an array's data is shorter or longer than its shape says")
    return np.frombuffer(data, kind).reshape(shape).copy()
