"""/api/brands: the settings of brands, and their budget and results of today."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from db.brands import BrandSettings
from ledger.client.ledger_client import LedgerClient
from serve_app.http.json_response import json_response
from serve_app.http.openapi import Operation
from serve_app.http.parsing import parse_over, parse_query, path_id
from serve_app.http.request_reader import RequestReader
from serve_app.routes.waits import LEDGER_WAIT_S, SYNC_AFTER_WRITE_S, SYNC_BEFORE_READ_S
from serve_app.schemas import examples
from serve_app.schemas.brands import Brand, BrandPage, PageQuery
from serve_app.scoring.upstream_errors import ledger_problems


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
            return json_response(await self._ledger.get_brand(LEDGER_WAIT_S, brand_id))

    async def put(self, request: Request) -> Response:
        """PUT: create or replace one brand."""
        _, body = await self._requests.caller_and_body(request, "admin")
        brand_id = path_id(request, "brand_id")
        settings = parse_over(BrandSettings, self._new_brand.model_dump(), body)
        with ledger_problems():
            shown = await self._ledger.put_brand(LEDGER_WAIT_S, brand_id, settings)
        await self._ledger.summon_within(SYNC_AFTER_WRITE_S)
        return json_response(shown)


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
    ),
    Operation(
        "put",
        "/api/brands/{brand_id}",
        "Create or replace a brand",
        Brand,
        BrandSettings,
        tag="Brands",
        description="Fields that are left out take the settings of new brands (`PACELINE_NEW_BRAND_…`).",
        examples=examples.PUT_BRAND,
    ),
)
