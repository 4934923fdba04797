"""The body of POST /api/score, read into columns straight from its bytes.

`schemas.score.ScoreRequest` is the contract, and alone says what is wrong with a body. Most bodies are right: a struct
made from the same model reads them in a tenth of the time. What it does not accept, the model is asked about. Whatever
passes here, the model reads alike (`tests/unit/serve_app/scoring/test_request.py` holds the two against each other).
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
    """A request, its bids as columns."""

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


# Without `at`: it is rare, and no struct reads a time as the contract does.
_Request = struct_of(ScoreRequest, without=("at",), unchecked=(Id, Currency))
_decode: Callable[[bytes], Any] = msgspec.json.Decoder(_Request).decode
_values = msgspec.structs.astuple


def read_fast(body: bytes) -> RequestColumns | None:
    """The request, if it is right; whether its bids' places are named by ids, `Bids.have_ids` has yet to say.

    Returns:
        None: `read_checked` has to look at it.
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
    """The request, whatever it takes to read it.

    Raises:
        Invalid: 422, with a pointer to each mistake.
    """
    request = parse(ScoreRequest, body)
    known: set[str] = set()
    for index, bid in enumerate(request.bids):
        if bid.bid_id in known:
            raise Invalid.at(f"/bids/{index}/bid_id", f"{bid.bid_id} is the name of an earlier bid", "duplicate_bid_id")
        known.add(bid.bid_id)
    return RequestColumns.of(request)
