"""GET /api/roas: predicted and actual revenue, cost and ROAS of a brand in a slot."""

from __future__ import annotations

import asyncio
import datetime as dt
import math
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from db.session import Database
from ledger.client.ledger_client import LedgerClient
from ledger.domain.messages import BrandTerms
from serve_app.http.json_response import json_response
from serve_app.http.openapi import Operation
from serve_app.http.parsing import parse_query
from serve_app.http.problem_details import not_found
from serve_app.http.request_reader import RequestReader
from serve_app.prediction.columns import columns_of
from serve_app.prediction.predictions import Predictions
from serve_app.prediction.predictor import Slot
from serve_app.routes.roas_actuals import Actuals, SlotFilter, actuals
from serve_app.routes.waits import LEDGER_WAIT_S
from serve_app.schemas import examples
from serve_app.schemas.roas import RoasQuery, RoasResponse
from serve_app.scoring.upstream_errors import database_problems, known_terms, ledger_problems, prediction_problems

POOL_WAIT_S = 5.0
"""Seconds to wait for a predictor's answer."""


class RoasRoutes:
    def __init__(
        self, requests: RequestReader, predictions: Predictions, ledger: LedgerClient, database: Database
    ) -> None:
        self._requests, self._predictions, self._ledger, self._database = requests, predictions, ledger, database

    async def show(self, request: Request) -> Response:
        """GET: one slot, for an admin, the brand or the partner."""
        caller = await self._requests.caller(request, "admin", "partner", "brand")
        query = parse_query(RoasQuery, request)
        if not (caller.owns_brand(query.brand_id) or caller.owns_partner(query.partner_id)):
            raise not_found("brand")
        brand = known_terms(self._ledger).get(query.brand_id)
        if brand is None:
            raise not_found("brand")
        now = (query.at or dt.datetime.now(dt.UTC)).astimezone(dt.UTC)
        slot = await self._predicted(query, now)
        found, actual_roas = await self._actual(query, now)
        return json_response(_answer(query, brand, slot, found, actual_roas))

    async def _predicted(self, query: RoasQuery, now: dt.datetime) -> Slot:
        key = (
            query.brand_id,
            query.partner_id,
            query.slot_id,
            query.device_type,
            query.creative_type,
            query.placement_score,
        )
        with prediction_problems():
            async with asyncio.timeout(POOL_WAIT_S):
                return await self._predictions.slot(columns_of([key], int(now.timestamp())))

    async def _actual(self, query: RoasQuery, now: dt.datetime) -> tuple[Actuals, float]:
        """(totals of the window; its ROAS with what late approvals will add, NaN if it is not known)."""
        days = int(query.window.removesuffix("d"))
        where = SlotFilter(
            query.brand_id,
            query.partner_id,
            query.slot_id,
            query.device_type if "device_type" in query.model_fields_set else None,
            query.creative_type if "creative_type" in query.model_fields_set else None,
        )
        with database_problems():
            found = await actuals(self._database, where, now.date(), days)
        with ledger_problems():
            roas = await self._ledger.slot_roas(LEDGER_WAIT_S, query.brand_id, found.days, days, _share_of_day(now))
        return found, roas


def _share_of_day(at: dt.datetime) -> float:
    return (at - at.replace(hour=0, minute=0, second=0, microsecond=0)) / dt.timedelta(days=1)


def _answer(query: RoasQuery, brand: BrandTerms, slot: Slot, found: Actuals, actual_roas: float) -> dict[str, Any]:
    """`schemas.roas.RoasResponse`."""
    return {
        "brand_id": query.brand_id,
        "partner_id": query.partner_id,
        "slot_id": query.slot_id,
        "window": query.window,
        "currency": brand.currency,
        "predicted_roas": slot.revenue_micros / slot.cost_micros if slot.cost_micros else None,
        "predicted_revenue_micros": slot.revenue_micros,
        "predicted_cost_micros": slot.cost_micros,
        "target_roas": brand.target_roas,
        "lambda": brand.lambda_,
        "model_version": slot.model_version,
        "actual": {
            "impressions": found.impressions,
            "clicks": found.clicks,
            "conversions": found.conversions,
            "cost_micros": found.cost_micros,
            "revenue_micros": found.revenue_micros,
            "pending_revenue_micros": found.pending_revenue_micros,
            "roas": None if math.isnan(actual_roas) else actual_roas,
        },
        "confidence": {"impressions": slot.impressions, "level": slot.level},
    }


OPERATIONS = (
    Operation(
        "get",
        "/api/roas",
        "Show predicted and actual ROAS of a brand in a slot",
        RoasResponse,
        query=RoasQuery,
        problems=("404",),
        tag="Results",
        examples=examples.ROAS,
    ),
)
