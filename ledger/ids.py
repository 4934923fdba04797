"""Reservation ids that speak for themselves.

A win is answered before it is recorded. Its id says which session drew how much for which day, and carries a code that
only the session's secret makes: an event for a win whose replica died first still finds the money that was drawn for
it, and nobody can make up a hold.
"""

from __future__ import annotations

import base64
import binascii
import datetime as dt
import hashlib
import hmac
from typing import NamedTuple

MODELS = ("cpm", "cpc", "cpa", "revshare")
CODE_BYTES = 9
_TIME, _SESSION, _SEQUENCE, _AMOUNT, _DAY = 6, 6, 4, 7, 3
_LENGTH = _TIME + _SESSION + _SEQUENCE + _AMOUNT + _DAY + 1 + CODE_BYTES
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MILLISECOND = dt.timedelta(milliseconds=1)


class Drawn(NamedTuple):
    """What an id says."""

    created_ms: int  # since 1970, by the ledger's clock as its replica knew it
    session_id: int
    sequence: int
    amount_micros: int
    day: dt.date
    pricing_model: str

    @property
    def created_at(self) -> dt.datetime:
        return _EPOCH + self.created_ms * _MILLISECOND


def encode(drawn: Drawn, brand_id: str, partner_id: str, secret: bytes) -> str:
    """48 characters that an id may have; the first say the time, so that new rows lie side by side.

    Raises:
        OverflowError: a number has no room.
    """
    body = (
        drawn.created_ms.to_bytes(_TIME, "big")
        + drawn.session_id.to_bytes(_SESSION, "big")
        + drawn.sequence.to_bytes(_SEQUENCE, "big")
        + drawn.amount_micros.to_bytes(_AMOUNT, "big")
        + drawn.day.toordinal().to_bytes(_DAY, "big")
        + MODELS.index(drawn.pricing_model).to_bytes(1, "big")
    )
    return base64.urlsafe_b64encode(body + _code(body, brand_id, partner_id, secret)).decode()


def decode(reservation_id: str) -> Drawn | None:
    """What the id claims; None: it is none of ours. Whether it is true, `is_genuine` tells.

    >>> drawn = Drawn(1_714_564_800_000, 7, 1, 300, dt.date(2024, 5, 1), "cpm")
    >>> decode(encode(drawn, "b", "p", b"secret")) == drawn
    True
    """
    raw = _bytes(reservation_id)
    if raw is None:
        return None
    fields, start = [], 0
    for length in (_TIME, _SESSION, _SEQUENCE, _AMOUNT, _DAY, 1):
        fields.append(int.from_bytes(raw[start : start + length], "big"))
        start += length
    created_ms, session_id, sequence, amount_micros, ordinal, model = fields
    if not 1 <= ordinal <= dt.date.max.toordinal() or model >= len(MODELS):
        return None
    try:
        drawn = Drawn(created_ms, session_id, sequence, amount_micros, dt.date.fromordinal(ordinal), MODELS[model])
        _ = drawn.created_at
    except OverflowError:
        return None
    return drawn


def is_genuine(reservation_id: str, brand_id: str, partner_id: str, secret: bytes) -> bool:
    """Whether the session with this secret made the id for this brand and partner."""
    raw = _bytes(reservation_id)
    if raw is None:
        return False
    body, code = raw[:-CODE_BYTES], raw[-CODE_BYTES:]
    return hmac.compare_digest(code, _code(body, brand_id, partner_id, secret))


def _code(body: bytes, brand_id: str, partner_id: str, secret: bytes) -> bytes:
    said = b"%b%b\x1f%b" % (body, brand_id.encode(), partner_id.encode())
    return hashlib.blake2b(said, key=secret, digest_size=CODE_BYTES).digest()


def _bytes(reservation_id: str) -> bytes | None:
    try:
        raw = base64.b64decode(reservation_id, altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        return None
    return raw if len(raw) == _LENGTH and base64.urlsafe_b64encode(raw).decode() == reservation_id else None
