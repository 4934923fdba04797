"""/api/portfolios: the settings of portfolios, and their budget of today."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from db.brands import PortfolioSettings
from ledger.client.ledger_client import LedgerClient
from serve_app.http.json_response import json_response
from serve_app.http.openapi import Operation
from serve_app.http.parsing import parse_over, path_id
from serve_app.http.request_reader import RequestReader
from serve_app.routes.waits import LEDGER_WAIT_S, SYNC_AFTER_WRITE_S, SYNC_BEFORE_READ_S
from serve_app.schemas import examples
from serve_app.schemas.brands import Portfolio
from serve_app.scoring.upstream_errors import ledger_problems


class PortfolioRoutes:
    """
    Args:
        currency: of portfolios whose PUT names none.
    """

    def __init__(self, requests: RequestReader, ledger: LedgerClient, currency: str) -> None:
        self._requests, self._ledger = requests, ledger
        self._defaults = PortfolioSettings().model_dump() | {"currency": currency}

    async def show(self, request: Request) -> Response:
        """GET: one portfolio."""
        await self._requests.caller(request, "admin")
        portfolio_id = request.path_params["portfolio_id"]
        await self._ledger.summon_within(SYNC_BEFORE_READ_S)
        with ledger_problems():
            return json_response(await self._ledger.get_portfolio(LEDGER_WAIT_S, portfolio_id))

    async def put(self, request: Request) -> Response:
        """PUT: create or replace one portfolio."""
        _, body = await self._requests.caller_and_body(request, "admin")
        portfolio_id = path_id(request, "portfolio_id")
        settings = parse_over(PortfolioSettings, self._defaults, body)
        with ledger_problems():
            shown = await self._ledger.put_portfolio(LEDGER_WAIT_S, portfolio_id, settings)
        await self._ledger.summon_within(SYNC_AFTER_WRITE_S)
        return json_response(shown)


OPERATIONS = (
    Operation(
        "put",
        "/api/portfolios/{portfolio_id}",
        "Create or replace a portfolio",
        Portfolio,
        PortfolioSettings,
        tag="Portfolios",
        description="Brands join it by the `portfolio_id` of their own settings.",
        examples=examples.PUT_PORTFOLIO,
    ),
    Operation(
        "get",
        "/api/portfolios/{portfolio_id}",
        "Show a portfolio: settings, members, today's budget",
        Portfolio,
        problems=("404",),
        tag="Portfolios",
        examples=examples.PORTFOLIO,
    ),
)
