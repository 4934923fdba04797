"""The examples of /docs: what can be sent to a fresh simulated market as it is, and what comes back."""

from __future__ import annotations

from typing import Any, NamedTuple

_SLOT = {"partner_id": "partner-4", "slot_id": "p4:slot-1", "device_type": "mobile", "creative_type": "300x250"}
_PLACE = _SLOT | {"placement_score": 0.7}
_VERSION = "20260131T020000-1a2b3c"
_DAY = {"leased": 0, "reserved": 0, "settled": 0, "excess": 0, "overspend": 0}
_CHOSEN = {"target_roas": 1.2, "daily_budget_micros": 50_000_000}


class Examples(NamedTuple):
    """Of one route: a response, the request body and the parameters that get one like it."""

    answer: dict[str, Any]
    body: dict[str, Any] | None = None
    parameters: dict[str, Any] = {}  # noqa: RUF012  nothing writes to it


def _brand(brand_id: str, today: dict[str, int], **changes: Any) -> dict[str, Any]:
    settings = {
        "brand_id": brand_id,
        "currency": "EUR",
        "timezone": "UTC",
        "portfolio_id": None,
        "target_roas": 1.0,
        "throttle_roas": 0.8,
        "daily_budget_micros": 1_000_000_000_000,
        "strategy_multiplier": 1.0,
        "exploration": 0.02,
        "lambda_floor": 0.08,
        "max_cost_micros": None,
        "cost_tolerance": 1.5,
        "holds_share": 0.25,
        "active": True,
    } | changes
    budget = settings["daily_budget_micros"]
    available = budget - today.get("leased", 0) - today.get("reserved", 0) - today.get("settled", 0)
    results = {"cost": today.get("settled", 0), "revenue": 0, "roas": 0.0 if today.get("settled") else None}
    day = {"budget": budget, "available": available, **_DAY, **today, **results}
    return {**settings, "today": day, "lambda": settings["target_roas"], "throttled": False}


_METRICS = {"rows": 626, "exposure": 2607476.0, "r2": 0.14, "deviance": 58.6, "calibration": 0.98}
_GATE = {
    "accepted": True,
    "reason": "no champion to compare with",
    "checks": [],
    "newest_day": {"challenger": _METRICS, "champion": None},
    "week": {"challenger": None, "champion": None},
    "worst_brand": None,
    "brands_compared": 0,
    "rows": {"newest": 626, "usual": None, "known": 0, "learned": None},
    "score_shift": None,
    "brand_shift": None,
}
_MODEL = {
    "version": _VERSION,
    "parent": None,
    "engine": "lightgbm",
    "trained_through": "2026-01-30",
    "status": "published",
    "simulated": True,
    "live": True,
    "created_at": "2026-01-31T02:00:05Z",
    "metrics": {"challenger": _METRICS, "champion": None},
    "gate": _GATE,
}

SCORE = Examples(
    body={
        "request_id": "try-1",
        "winners": 1,
        "bids": [
            {"bid_id": "b-1", "brand_id": "brand-atlas", **_PLACE, "pricing_model": "cpm", "price_micros": 600_000},
            {"bid_id": "b-2", "brand_id": "brand-cedar", **_PLACE, "pricing_model": "cpc", "price_micros": 90_000},
        ],
    },
    answer={
        "request_id": "try-1",
        "model_version": _VERSION,
        "currency": "EUR",
        "ranked": [
            {
                "bid_id": "b-1",
                "brand_id": "brand-atlas",
                "rank": 1,
                "status": "won",
                "reason": None,
                "score": 1152.75,
                "predicted_revenue_micros": 1752.75,
                "predicted_cost_micros": 600.0,
                "predicted_roas": 2.92125,
                "strategy_multiplier": 1.0,
                "lambda": 1.0,
                "reservation_id": "AAABoi_GNq0AAAAAAAAAAQAAAAEAAAAAAAACWAALSm8AJX98LfC-zGI1",
                "reserved_micros": 600,
                "expires_at": "2026-01-31T12:30:00Z",
            },
            {
                "bid_id": "b-2",
                "brand_id": "brand-cedar",
                "rank": 2,
                "status": "lost",
                "reason": "score_below_zero",
                "score": -10.75,
                "predicted_revenue_micros": 713.5,
                "predicted_cost_micros": 724.25,
                "predicted_roas": 0.98516,
                "strategy_multiplier": 1.0,
                "lambda": 1.0,
                "reservation_id": None,
                "reserved_micros": None,
                "expires_at": None,
            },
        ],
    },
)
RELEASE = Examples(
    body={"reservation_ids": ["AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"]},
    answer={
        "released": 0,
        "items": [{"reservation_id": "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", "status": "not_found"}],
    },
)
PERFORMANCE = Examples(
    body={
        "events": [
            {
                "event_id": "try-1",
                "type": "impression",
                "occurred_at": "2026-01-31T12:00:00Z",
                "brand_id": "brand-atlas",
                **_PLACE,
                "cost_micros": 590,
            }
        ]
    },
    answer={
        "accepted": 1,
        "duplicates": 0,
        "rejected": 0,
        "items": [{"event_id": "try-1", "status": "accepted"}],
    },
)
ROAS = Examples(
    parameters={"brand_id": "brand-atlas", **_PLACE, "window": "7d"},
    answer={
        "brand_id": "brand-atlas",
        "partner_id": "partner-4",
        "slot_id": "p4:slot-1",
        "window": "7d",
        "currency": "EUR",
        "predicted_roas": 1.98981,
        "predicted_revenue_micros": 1752.75,
        "predicted_cost_micros": 880.8625,
        "target_roas": 1.0,
        "lambda": 1.0,
        "model_version": _VERSION,
        "actual": {
            "impressions": 312704,
            "clicks": 4637,
            "conversions": 150,
            "cost_micros": 285_315_623,
            "revenue_micros": 192_699_620,
            "pending_revenue_micros": 624_665_501,
            "roas": 2.4269,
        },
        "confidence": {"impressions": 426648.4, "level": "creative"},
    },
)
_ATLAS = _brand("brand-atlas", {"leased": 18_600, "reserved": 600, "settled": 590})
BRANDS = Examples(
    parameters={"limit": 2},
    answer={"brands": [_ATLAS, _brand("brand-boreal", {})], "next_cursor": "brand-boreal"},
)
BRAND = Examples(parameters={"brand_id": "brand-atlas"}, answer=_ATLAS)
PUT_BRAND = Examples(
    parameters={"brand_id": "my-brand"},
    body=_CHOSEN,
    answer=_brand("my-brand", {}, **_CHOSEN),
)
PUT_PORTFOLIO = Examples(
    parameters={"portfolio_id": "my-portfolio"},
    body=_CHOSEN,
    answer={
        "portfolio_id": "my-portfolio",
        "currency": "EUR",
        "timezone": "UTC",
        "throttle_roas": 0.8,
        **_CHOSEN,
        "brand_ids": [],
        "today": {"budget": 50_000_000, "available": 50_000_000, **_DAY},
    },
)
PATCH_BRAND = Examples(
    parameters={"brand_id": "brand-boreal"},
    body={"daily_budget_micros": 2_000_000_000_000},
    answer=_brand("brand-boreal", {}, daily_budget_micros=2_000_000_000_000),
)
PORTFOLIO = Examples(parameters=PUT_PORTFOLIO.parameters, answer=PUT_PORTFOLIO.answer)
PATCH_PORTFOLIO = Examples(
    parameters=PUT_PORTFOLIO.parameters, body={"daily_budget_micros": 50_000_000}, answer=PUT_PORTFOLIO.answer
)
MODELS = Examples(answer={"models": [_MODEL], "as_of": None})
ACTIVATE = Examples(parameters={"version": _VERSION}, answer=_MODEL)
