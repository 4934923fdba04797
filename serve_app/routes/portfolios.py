"""/api/portfolios: the settings of portfolios, and their budget of today."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from db.brands import PortfolioSettings
from ledger.client.ledger_client import LedgerClient
from serve_app.http.openapi import Operation
from serve_app.http.parsing import path_id
from serve_app.http.request_reader import RequestReader
from serve_app.routes.settings_change import Resource, change_of, shown
from serve_app.routes.waits import LEDGER_WAIT_S, SYNC_AFTER_WRITE_S, SYNC_BEFORE_READ_S
from serve_app.schemas import examples
from serve_app.schemas.brands import Portfolio
from serve_app.scoring.upstream_errors import ledger_problems

PORTFOLIO = Resource(PortfolioSettings, Portfolio, "portfolio_id")


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
            content = await self._ledger.get_portfolio(LEDGER_WAIT_S, portfolio_id)
        return shown(PORTFOLIO, content)

    async def change(self, request: Request) -> Response:
        """PUT: create or replace one portfolio. PATCH: change what is given of one."""
        _, body = await self._requests.caller_and_body(request, "admin")
        portfolio_id = path_id(request, "portfolio_id")
        change = change_of(PORTFOLIO, portfolio_id, request, body, self._defaults)
        with ledger_problems():
            content = await self._ledger.put_portfolio(LEDGER_WAIT_S, portfolio_id, change)
        await self._ledger.summon_within(SYNC_AFTER_WRITE_S)
        return shown(PORTFOLIO, content)


OPERATIONS = (
    Operation(
        "put",
        "/api/portfolios/{portfolio_id}",
        "Create or replace a portfolio",
        Portfolio,
        PortfolioSettings,
        tag="Portfolios",
        problems=("412",),
        description=(
            "Brands join it by the `portfolio_id` of their own settings. A portfolio that has a budget needs "
            "daily_budget_micros: use PATCH to change the rest. What GET answers can be put back."
        ),
        examples=examples.PUT_PORTFOLIO,
        is_settings=True,
    ),
    Operation(
        "patch",
        "/api/portfolios/{portfolio_id}",
        "Change some settings of a portfolio",
        Portfolio,
        PortfolioSettings,
        problems=("404", "412", "415"),
        tag="Portfolios",
        description="Fields that are left out stay as they are (JSON merge patch, RFC 7396).",
        examples=examples.PATCH_PORTFOLIO,
        is_settings=True,
    ),
    Operation(
        "get",
        "/api/portfolios/{portfolio_id}",
        "Show a portfolio: settings, members, today's budget",
        Portfolio,
        problems=("404",),
        tag="Portfolios",
        examples=examples.PORTFOLIO,
        is_settings=True,
    ),
)
