"""Reservation ids, which contain what is needed to make the hold.

A win is answered before it is recorded. Its id contains session, amount and day, and a code that only the session's
secret can make. So an event for a win whose replica died before its beat can still be paid from the replica's lease,
and nobody can invent a hold.
"""

from __future__ import annotations

import binascii
import datetime as dt
import hashlib
import hmac
import struct
from collections.abc import Collection
from typing import Any, NamedTuple

MODELS = ("cpm", "cpc", "cpa", "revshare")
_NUMBER_OF = {model: number for number, model in enumerate(MODELS)}
CODE_BYTES = 9
_BODY = struct.Struct(">QQIQIB")
"""created_ms, session_id, sequence, amount_micros, day, model."""

_WHOLE = struct.Struct(f"{_BODY.format}{CODE_BYTES}s")
_CHARACTERS = _WHOLE.size * 4 // 3
"""Characters of an id. They fill whole bytes, so that ids can be joined and decoded at once."""

_TO_URL, _FROM_URL = bytes.maketrans(b"+/", b"-_"), bytes.maketrans(b"-_", b"+/")
_MOST = 2**63 - 1
"""The largest number of the database; a query for a larger one would fail."""

_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MILLISECOND = dt.timedelta(milliseconds=1)
_LAST_DAY = dt.date.max.toordinal()
_END_MS = (_LAST_DAY + 1 - _EPOCH.toordinal()) * 86_400_000
"""The end of the year 9999: no time is later."""


class DecodedId(NamedTuple):
    """The content of an id."""

    created_ms: int  # since 1970, by the ledger's clock as its replica knew it
    session_id: int
    sequence: int
    amount_micros: int
    day: dt.date
    pricing_model: str

    @property
    def created_at(self) -> dt.datetime:
        return _EPOCH + self.created_ms * _MILLISECOND


class ClaimedId(NamedTuple):
    """An id from an event: its content, and the code that has to be checked (`is_genuine`)."""

    drawn: DecodedId
    body: bytes
    code: bytes

    def is_genuine(self, brand_id: str, partner_id: str, secret: bytes) -> bool:
        """Whether the session with this secret made the id for this brand and partner."""
        return hmac.compare_digest(self.code, _code(_keyed(secret), self.body, brand_id, partner_id))


class ReservationIdMaker:
    """Makes one session's ids."""

    def __init__(self, session_id: int, secret: bytes) -> None:
        self._session_id, self._keyed = session_id, _keyed(secret)

    def make(
        self,
        created_ms: int,
        sequence: int,
        amount_micros: int,
        day_ordinal: int,
        pricing_model: str,
        brand_id: str,
        partner_id: str,
    ) -> str:
        """An id of 56 characters. It begins with the time, so that new rows are next to each other on disk.

        Raises:
            struct.error: a number is too large.
        """
        body = _BODY.pack(created_ms, self._session_id, sequence, amount_micros, day_ordinal, _NUMBER_OF[pricing_model])
        return _text(body + _code(self._keyed, body, brand_id, partner_id))


def encode(drawn: DecodedId, brand_id: str, partner_id: str, secret: bytes) -> str:
    """One id; see `ReservationIdMaker.make`."""
    return ReservationIdMaker(drawn.session_id, secret).make(
        drawn.created_ms,
        drawn.sequence,
        drawn.amount_micros,
        drawn.day.toordinal(),
        drawn.pricing_model,
        brand_id,
        partner_id,
    )


def decode_all(reservation_ids: Collection[str]) -> dict[str, DecodedId | None]:
    """`decode` of each id, all at once, which is quicker."""
    text = "".join(reservation_ids)
    raw = _raw(text)
    if raw is None or any(len(id_) != _CHARACTERS for id_ in reservation_ids):
        return {id_: decode(id_) for id_ in reservation_ids}
    days: dict[int, dt.date] = {}
    return {id_: _drawn(numbers, days) for id_, numbers in zip(reservation_ids, _WHOLE.iter_unpack(raw), strict=True)}


def parse(reservation_id: str) -> ClaimedId | None:
    """An id's content and code; None if it is not a reservation id."""
    raw = _bytes(reservation_id)
    drawn = None if raw is None else _drawn(_WHOLE.unpack(raw), {})
    return None if raw is None or drawn is None else ClaimedId(drawn, raw[:-CODE_BYTES], raw[-CODE_BYTES:])


def decode(reservation_id: str) -> DecodedId | None:
    """An id's content, not checked for being genuine (`ClaimedId.is_genuine`); None if it is not a reservation id.

    >>> drawn = DecodedId(1_714_564_800_000, 7, 1, 300, dt.date(2024, 5, 1), "cpm")
    >>> decode(encode(drawn, "b", "p", b"secret")) == drawn
    True
    """
    raw = _bytes(reservation_id)
    return None if raw is None else _drawn(_WHOLE.unpack(raw), {})


def _drawn(numbers: tuple[Any, ...], days: dict[int, dt.date]) -> DecodedId | None:
    """
    Args:
        numbers: as `_WHOLE` unpacks them.
        days: dates by ordinal, kept between calls: there are few.
    """
    created_ms, session_id, sequence, amount_micros, ordinal, model, _ = numbers
    if model >= len(MODELS) or session_id > _MOST or amount_micros > _MOST or created_ms >= _END_MS:
        return None
    day = days.get(ordinal)
    if day is None:
        if not 1 <= ordinal <= _LAST_DAY:
            return None
        day = days[ordinal] = dt.date.fromordinal(ordinal)
    return DecodedId(created_ms, session_id, sequence, amount_micros, day, MODELS[model])


def _keyed(secret: bytes) -> hashlib.blake2b:
    return hashlib.blake2b(key=secret, digest_size=CODE_BYTES)


def _code(keyed: hashlib.blake2b, body: bytes, brand_id: str, partner_id: str) -> bytes:
    digest = keyed.copy()
    digest.update(b"%b%b\x1f%b" % (body, brand_id.encode(), partner_id.encode()))
    return digest.digest()


def _text(raw: bytes) -> str:
    return binascii.b2a_base64(raw, newline=False).translate(_TO_URL).decode()


def _bytes(reservation_id: str) -> bytes | None:
    return _raw(reservation_id) if len(reservation_id) == _CHARACTERS else None


def _raw(text: str) -> bytes | None:
    """The bytes of these characters; None if `_text` would not write them so."""
    if "=" in text:
        return None
    try:
        raw = binascii.a2b_base64(text.encode("ascii").translate(_FROM_URL), strict_mode=True)
    except (binascii.Error, ValueError):
        return None
    return raw if _text(raw) == text else None
