"""/api/brands: the settings of brands, and their budget and results of today."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from db.brands import BrandSettings
from ledger.client.ledger_client import LedgerClient
from serve_app.http.json_response import json_response
from serve_app.http.openapi import Operation
from serve_app.http.parsing import parse_query, path_id
from serve_app.http.request_reader import RequestReader
from serve_app.routes.settings_change import Resource, change_of, shown
from serve_app.routes.waits import LEDGER_WAIT_S, SYNC_AFTER_WRITE_S, SYNC_BEFORE_READ_S
from serve_app.schemas import examples
from serve_app.schemas.brands import Brand, BrandPage, PageQuery
from serve_app.scoring.upstream_errors import ledger_problems

BRAND = Resource(BrandSettings, Brand, "brand_id")


class BrandRoutes:
    """
    Args:
        new_brand: values of the fields that a PUT leaves out.
    """

    def __init__(self, requests: RequestReader, ledger: LedgerClient, new_brand: BrandSettings) -> None:
        self._requests, self._ledger, self._new_brand = requests, ledger, new_brand

    async def page(self, request: Request) -> Response:
        """GET: one page of brands, ordered by id."""
        await self._requests.caller(request, "admin")
        page = parse_query(PageQuery, request)
        await self._ledger.summon_within(SYNC_BEFORE_READ_S)
        with ledger_problems():
            brands, next_cursor = await self._ledger.list_brands(LEDGER_WAIT_S, page.cursor, page.limit)
        return json_response({"brands": brands, "next_cursor": next_cursor})

    async def show(self, request: Request) -> Response:
        """GET: one brand, for an admin or the brand itself."""
        caller = await self._requests.caller(request, "admin", "brand")
        brand_id = request.path_params["brand_id"]
        caller.must_own_brand(brand_id)
        await self._ledger.summon_within(SYNC_BEFORE_READ_S)
        with ledger_problems():
            content = await self._ledger.get_brand(LEDGER_WAIT_S, brand_id)
        return shown(BRAND, content)

    async def change(self, request: Request) -> Response:
        """PUT: create or replace one brand. PATCH: change what is given of one."""
        _, body = await self._requests.caller_and_body(request, "admin")
        brand_id = path_id(request, "brand_id")
        change = change_of(BRAND, brand_id, request, body, self._new_brand.model_dump())
        with ledger_problems():
            content = await self._ledger.put_brand(LEDGER_WAIT_S, brand_id, change)
        await self._ledger.summon_within(SYNC_AFTER_WRITE_S)
        return shown(BRAND, content)


OPERATIONS = (
    Operation(
        "get",
        "/api/brands",
        "List brands, page by page",
        BrandPage,
        query=PageQuery,
        tag="Brands",
        examples=examples.BRANDS,
    ),
    Operation(
        "get",
        "/api/brands/{brand_id}",
        "Show a brand: settings, λ, today's budget and results",
        Brand,
        problems=("404",),
        tag="Brands",
        examples=examples.BRAND,
        is_settings=True,
    ),
    Operation(
        "put",
        "/api/brands/{brand_id}",
        "Create or replace a brand",
        Brand,
        BrandSettings,
        tag="Brands",
        problems=("412",),
        description=(
            "Fields that are left out take the settings of new brands (`PACELINE_NEW_BRAND_…`), throttle_roas at most "
            "target_roas. A brand that has a budget needs daily_budget_micros: use PATCH to change the rest. What GET "
            "answers can be put back."
        ),
        examples=examples.PUT_BRAND,
        is_settings=True,
    ),
    Operation(
        "patch",
        "/api/brands/{brand_id}",
        "Change some settings of a brand",
        Brand,
        BrandSettings,
        problems=("404", "412", "415"),
        tag="Brands",
        description="Fields that are left out stay as they are (JSON merge patch, RFC 7396).",
        examples=examples.PATCH_BRAND,
        is_settings=True,
    ),
)
