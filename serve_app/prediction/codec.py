"""Encodes what travels between ingress and predictor pool: all columns of a call in one buffer of bytes."""

from __future__ import annotations

import msgspec
import numpy as np

from serve_app.prediction.expectation import Expectation
from training.model.model import Columns

_encode = msgspec.msgpack.Encoder().encode
_columns = msgspec.msgpack.Decoder(tuple[tuple[list[str], list[str], list[str], list[str], list[str]], bytes, bytes])
_expectation = msgspec.msgpack.Decoder(tuple[str, bytes])


def pack(columns: Columns) -> bytes:
    assert columns.at is not None
    return _encode((columns.ids, columns.placement_score.tobytes(), columns.at.tobytes()))


def unpack(data: bytes) -> Columns:
    ids, scores, at = _columns.decode(data)
    return Columns.of(ids, np.frombuffer(scores, np.float64), np.frombuffer(at, np.int64))


def pack_expectation(found: Expectation) -> bytes:
    return _encode((found.model_version, np.stack(found[:4]).tobytes()))


def unpack_expectation(data: bytes) -> Expectation:
    version, numbers = _expectation.decode(data)
    revenue, ctr, cvr, impressions = np.frombuffer(numbers, np.float64).reshape(4, -1)
    return Expectation(revenue, ctr, cvr, impressions, version)
