"""The body of POST /api/score as columns, straight from its bytes.

`schemas.ScoreRequest` is the contract and the only judge of what is wrong. Most bodies are right: msgspec reads them in
a tenth of the time, and what it cannot vouch for goes to the judge. Whatever passes here, the judge reads alike
(`tests/unit/test_bids.py` holds the two against each other).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal

import msgspec
import numpy as np
from msgspec import Meta, Struct

from db.brands import MOST_MICROS
from serve_app import schemas
from training.model.model import Columns

Key = tuple[str, str, str, str, str, float | None]
"""brand, partner, slot, device, creative, placement score: what a prediction depends on, the hour aside."""

ID_CHARACTERS = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._:-"
ID_MOST = 64


@dataclass(slots=True)
class Bids:
    """One request's bids as columns, n of each."""

    bid_id: Sequence[str]
    brand_id: Sequence[str]
    partner_id: Sequence[str]
    slot_id: Sequence[str]
    device_type: Sequence[str]
    creative_type: Sequence[str]
    placement_score: Sequence[float | None]
    pricing_model: Sequence[str]
    price_micros: Sequence[int | None]
    revenue_share: Sequence[float | None]
    keys: Sequence[Key] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.keys = list(
            zip(
                self.brand_id,
                self.partner_id,
                self.slot_id,
                self.device_type,
                self.creative_type,
                self.placement_score,
                strict=True,
            )
        )

    @classmethod
    def of(cls, bids: Iterable[schemas.Bid]) -> Bids:
        return cls(*zip(*(tuple(getattr(bid, name) for name in FIELDS) for bid in bids), strict=True))

    def __len__(self) -> int:
        return len(self.bid_id)

    def have_ids(self) -> bool:
        """Whether what names a bid's place are ids. Not asked where the keys are known: they were asked then."""
        return are_ids({*self.brand_id, *self.partner_id, *self.slot_id, *self.device_type, *self.creative_type})


FIELDS = tuple(name for name in Bids.__dataclass_fields__ if name != "keys")


def columns_of(keys: Sequence[Key], at: int) -> Columns:
    """What a model is asked for. `at`: epoch seconds, for the time features."""
    *ids, scores = zip(*keys, strict=True)
    numbers = np.array([np.nan if score is None else score for score in scores], dtype=np.float64)
    return Columns.of(ids, numbers, np.full(len(keys), at, dtype=np.int64))


@dataclass(slots=True)
class Wanted:
    """A request."""

    request_id: str
    bids: Bids
    winners: int
    explain: bool
    currency: str | None
    at_s: float | None  # epoch seconds; sets the time features only
    floor_micros: float | None
    tmax_ms: int | None

    @classmethod
    def of(cls, request: schemas.ScoreRequest) -> Wanted:
        at_s = None if request.at is None else request.at.timestamp()
        return cls(
            request.request_id,
            Bids.of(request.bids),
            request.winners,
            request.explain,
            request.currency,
            at_s,
            request.floor_micros,
            request.tmax_ms,
        )


class _Bid(Struct, forbid_unknown_fields=True, gc=False):
    """In the order of `Bids`."""

    bid_id: str
    brand_id: str
    partner_id: str
    slot_id: str
    device_type: str
    creative_type: str
    pricing_model: Literal["cpm", "cpc", "cpa", "revshare"]
    placement_score: float | None = None
    price_micros: Annotated[int, Meta(ge=1, le=MOST_MICROS)] | None = None
    revenue_share: Annotated[float, Meta(ge=0, le=1)] | None = None


class _Request(Struct, forbid_unknown_fields=True, gc=False):
    """Without `at`, which is rare."""

    request_id: str
    bids: Annotated[list[_Bid], Meta(min_length=1, max_length=1000)]
    winners: Annotated[int, Meta(ge=1, le=50)] = 1
    explain: bool = False
    currency: str | None = None
    floor_micros: Annotated[float, Meta(ge=0, le=MOST_MICROS)] | None = None
    tmax_ms: Annotated[int, Meta(ge=1, le=60_000)] | None = None


_decode = msgspec.json.Decoder(_Request).decode
_values = msgspec.structs.astuple


def read(body: bytes) -> Wanted | None:
    """The request, if it can be vouched for without the judge; what names its places has not been looked at."""
    try:
        request = _decode(body)
    except (ValueError, RecursionError):  # msgspec's errors, and text that is not UTF-8, are ValueErrors
        return None
    bid_id, brand_id, partner_id, slot_id, device, creative, model, score, price, share = zip(
        *map(_values, request.bids), strict=True
    )
    names = set(bid_id)
    if len(names) != len(bid_id) or not _are_priced(model, price, share):
        return None
    names.add(request.request_id)
    currency = request.currency
    if not are_ids(names) or not (currency is None or schemas.CURRENCY.fullmatch(currency)):
        return None
    return Wanted(
        request.request_id,
        Bids(bid_id, brand_id, partner_id, slot_id, device, creative, score, model, price, share),
        request.winners,
        request.explain,
        currency,
        None,
        request.floor_micros,
        request.tmax_ms,
    )


def are_ids(names: set[str]) -> bool:
    """Whether all of them, at least one, are what `schemas.Id` allows."""
    if max(map(len, names)) > ID_MOST or "" in names:
        return False
    text = "\n".join(names)
    return text.isascii() and text.encode().translate(None, ID_CHARACTERS) == b"\n" * (len(names) - 1)


def _are_priced(model: Sequence[str], price: Sequence[int | None], share: Sequence[float | None]) -> bool:
    """As `schemas.Bid` wants it."""
    if "revshare" not in model:
        return None not in price and share.count(None) == len(share)
    return all(
        (one_share is not None and one_price is None)
        if of == "revshare"
        else (one_price is not None and one_share is None)
        for of, one_price, one_share in zip(model, price, share, strict=True)
    )
