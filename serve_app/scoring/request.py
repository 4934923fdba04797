"""Parses the body of POST /api/score from bytes into columns.

Two parsers: a msgspec struct reads correct bodies in a tenth of the time; whatever it does not accept is parsed again
by `schemas.score.ScoreRequest`, the contract, which alone says what is wrong with a body. Both accept the same bodies:
`tests/unit/serve_app/scoring/test_request.py` compares them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from db.brands import Currency, Id
from db.fields import CURRENCY
from serve_app.http.parsing import parse
from serve_app.http.problem_details import Invalid
from serve_app.schemas.score import ScoreRequest
from serve_app.schemas.structs import struct_of
from serve_app.scoring.bids import Bids, are_ids


@dataclass(slots=True)
class RequestColumns:
    """A score request, its bids as columns."""

    request_id: str
    bids: Bids
    winners: int
    explain: bool
    currency: str | None
    at_s: float | None  # epoch seconds; sets the time features only
    floor_micros: float | None
    tmax_ms: int | None

    @classmethod
    def of(cls, request: ScoreRequest) -> RequestColumns:
        return cls(
            request.request_id,
            Bids.of(request.bids),
            request.winners,
            request.explain,
            request.currency,
            None if request.at is None else request.at.timestamp(),
            request.floor_micros,
            request.tmax_ms,
        )


# Without `at`: it is rare, and msgspec parses times differently from the contract.
_Request = struct_of(ScoreRequest, without=("at",), unchecked=(Id, Currency))
_decode: Callable[[bytes], Any] = msgspec.json.Decoder(_Request).decode
_values = msgspec.structs.astuple


def read_fast(body: bytes) -> RequestColumns | None:
    """The request, if it is correct. Brand, partner, slot, device and creative are not checked: see `Bids.have_ids`.

    Returns:
        None: it may be wrong; `read_checked` says.
    """
    try:
        request = _decode(body)
    except (ValueError, RecursionError):  # msgspec's errors, and text that is not UTF-8, are ValueErrors
        return None
    bids = Bids(*zip(*map(_values, request.bids), strict=True))
    names = set(bids.bid_id)
    if len(names) != len(bids) or not bids.are_priced():
        return None
    names.add(request.request_id)
    currency = request.currency
    if not are_ids(names) or not (currency is None or CURRENCY.fullmatch(currency)):
        return None
    return RequestColumns(
        request.request_id,
        bids,
        request.winners,
        request.explain,
        currency,
        None,
        request.floor_micros,
        request.tmax_ms,
    )


def read_checked(body: bytes) -> RequestColumns:
    """The request, by the contract's own parser.

    Raises:
        Invalid: 422, with a pointer to each mistake.
    """
    request = parse(ScoreRequest, body)
    known: set[str] = set()
    for index, bid in enumerate(request.bids):
        if bid.bid_id in known:
            raise Invalid.at(
                f"/bids/{index}/bid_id", f"an earlier bid has the bid_id {bid.bid_id}, too", "duplicate_bid_id"
            )
        known.add(bid.bid_id)
    return RequestColumns.of(request)
