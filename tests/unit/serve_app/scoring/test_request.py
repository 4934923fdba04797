"""What is read fast is what the contract's models read, or it is left to them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from db.fields import MOST_MICROS
from serve_app.schemas.score import ScoreRequest
from serve_app.scoring.request import RequestColumns, read_fast

BID = {
    "bid_id": "b-1",
    "brand_id": "camp-1",
    "partner_id": "p",
    "slot_id": "s:1",
    "device_type": "mobile",
    "creative_type": "160x600",
    "pricing_model": "cpm",
    "price_micros": 1_300_000,
}
SCORES = [0.25, None, 3, -0.0]


def body(bids: list[dict[str, Any]] | None = None, **changes: Any) -> bytes:
    return json.dumps({"request_id": "r-1", "bids": [BID] if bids is None else bids} | changes).encode()


def judged(content: bytes) -> RequestColumns | None:
    """What the contract makes of it."""
    try:
        request = ScoreRequest.model_validate_json(content)
    except ValidationError:
        return None
    if len({bid.bid_id for bid in request.bids}) < len(request.bids):
        return None
    return RequestColumns.of(request)


def passed(content: bytes) -> RequestColumns | None:
    request = read_fast(content)
    return request if request is not None and request.bids.have_ids() else None


def same(content: bytes) -> None:
    fast = passed(content)
    assert fast is None or repr(fast) == repr(judged(content)), content


@pytest.mark.parametrize("n", [1, 50, 1000])
def test_an_ordinary_body_is_read_fast(n: int) -> None:
    """Else the hot route would quietly be ten times slower."""
    bids = [BID | {"bid_id": f"b-{i}", "placement_score": SCORES[i % 4]} for i in range(n)]
    content = body(bids, winners=2, currency="EUR", floor_micros=0.5, tmax_ms=100, explain=False)
    request = passed(content)
    assert request is not None
    assert repr(request) == repr(judged(content))


ODD: list[Any] = [
    None, True, 0, 1, -1, 1.0, 0.5, 1e2, MOST_MICROS, MOST_MICROS + 1, 2**63, 2**64, "", "a", "a" * 64, "a" * 65, "é",
    "a b", "a\n", "\n", "cpc", "cpa", "revshare", "EUR", "eur", [], {}, [BID], 50, 51, 60_000, 60_001,
]  # fmt: skip
FIELDS = [*BID, "placement_score", "revenue_share", "unknown"]
OPTIONS = ["request_id", "bids", "winners", "explain", "currency", "at", "floor_micros", "tmax_ms", "unknown"]
changes = st.dictionaries(st.sampled_from(FIELDS), st.sampled_from(ODD), max_size=3)


@given(
    st.lists(st.tuples(changes, st.sets(st.sampled_from(FIELDS), max_size=1), st.booleans()), max_size=4),
    st.dictionaries(st.sampled_from(OPTIONS), st.sampled_from([*ODD, "2026-01-31T12:00:00Z"]), max_size=2),
)
def test_whatever_is_read_fast_the_contract_reads_alike(
    rows: list[tuple[dict[str, Any], set[str], bool]], options: dict[str, Any]
) -> None:
    bids = []
    for number, (changed, missing, has_own_name) in enumerate(rows):
        bid = BID | ({"bid_id": f"b-{number}"} if has_own_name else {}) | changed
        bids.append({name: value for name, value in bid.items() if name not in missing})
    same(body(**{"bids": bids or None} | options))


@given(st.data())
def test_a_damaged_body_is_never_read_otherwise(data: st.DataObject) -> None:
    content = bytearray(body([BID, BID | {"bid_id": "b-2", "placement_score": 0.3333}], winners=1, tmax_ms=50))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(content) - 1))
        piece = data.draw(
            st.binary(max_size=2) | st.sampled_from([b"1e400", b"NaN", b"-0", b"\\u0041", b",", b"}", b"0"])
        )
        content[at : at + data.draw(st.integers(0, 3))] = piece
    same(bytes(content))


@pytest.mark.parametrize(
    "change",
    [
        b'"price_micros": 1.0', b'"price_micros": 1e6', b'"price_micros": 1, "price_micros": 2', b'"price_micros": "1"',
        b'"placement_score": 1e999', b'"placement_score": Infinity', b'"placement_score": 9007199254740993',
        b'"placement_score": ' + b"9" * 400, b'"bid_id": "\\ud800"', b'"bid_id": "\xff"', b'"bid_id": "a\\u0000"',
    ],
)  # fmt: skip
def test_json_s_corners(change: bytes) -> None:
    content = json.dumps({"request_id": "r", "bids": [BID]}).encode()
    same(content[:-3] + b", " + change + b"}]}")
