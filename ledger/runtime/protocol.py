"""The calls that a shard's ledger answers. Their names and arguments are what travels between processes.

`LedgerActor` implements them; a caller names one of them, and mypy knows its arguments and its answer:

    results = await remote(handle, LedgerCalls.record, events)

In a rolling deployment replicas of two versions call the same actor: a call keeps its name and its arguments.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from db.brands import BrandSettings, PortfolioSettings
from ledger.bidding.revenue_completion import DaySums
from ledger.domain.messages import Event, Reply, Result
from ledger.runtime.generations import Identity

P = ParamSpec("P")
T = TypeVar("T")


class LedgerCalls(Protocol):
    """Each raises LedgerUnavailable while the ledger has no database, or another one has taken over."""

    # A replica's life

    async def identity(self) -> Identity:
        """What it runs with; answered without the database."""
        ...

    async def beat(self, packed: bytes) -> Reply:
        """A heartbeat: wins are recorded, leases returned and granted.

        Args:
            packed: a `Beat`, by `pack_beat`.
        """
        ...

    async def listen(self, replica: str) -> bool:
        """Until the replica should beat at once (True), or nobody has asked for it for a while; see `Wakeup`."""
        ...

    async def summon(self, seconds: float, replica: str) -> None:
        """Until all replicas but this one have beaten, or so long."""
        ...

    async def end_sessions(self, since: dt.datetime) -> int:
        """See `Ledger.end_sessions`."""
        ...

    # What comes after a win

    async def release(self, reservation_ids: Sequence[str]) -> int:
        """See `Ledger.release`."""
        ...

    async def record(self, events: Sequence[Event]) -> list[Result]:
        """See `Ledger.record`; an answer for each event, in order."""
        ...

    # Administration; a brand or portfolio of another shard raises OtherShard

    async def put_brand(self, brand_id: str, settings: BrandSettings) -> dict[str, Any]:
        """The brand, as GET /api/brands/{brand_id} shows it.

        Raises:
            PortfolioUnknown, PortfolioMismatch, CurrencyFixed: nothing was changed.
        """
        ...

    async def get_brand(self, brand_id: str) -> dict[str, Any]:
        """Raises NotFound."""
        ...

    async def list_brands(self, cursor: str | None = None, limit: int = 100) -> tuple[list[dict[str, Any]], str | None]:
        """A page of the shard's brands, and the cursor of the next page (None: that was the last)."""
        ...

    async def put_portfolio(self, portfolio_id: str, settings: PortfolioSettings) -> dict[str, Any]:
        """The portfolio, as GET /api/portfolios/{portfolio_id} shows it.

        Raises:
            PortfolioMismatch, CurrencyFixed: nothing was changed.
        """
        ...

    async def get_portfolio(self, portfolio_id: str) -> dict[str, Any]:
        """Raises NotFound."""
        ...

    async def slot_roas(
        self, brand_id: str, days: Mapping[int, DaySums], window_days: int, today_fraction: float
    ) -> float:
        """The ROAS of a part of a brand, by the measure of `brand_roas_current`; NaN while it is not known."""
        ...


Call = Callable[Concatenate[LedgerCalls, P], Awaitable[T]]
"""One of the calls, as `LedgerCalls.record` names it."""


def remote(handle: Any, call: Call[P, T], *args: P.args, **kwargs: P.kwargs) -> Awaitable[T]:
    """The call of the actor behind a Ray handle.

    Returns:
        Ray's reference to the answer: to be awaited, or given to `ray.get`.
    """
    answer: Awaitable[T] = getattr(handle, call.__name__).remote(*args, **kwargs)
    return answer
