"""The calls that a shard's ledger answers. Their names and arguments are sent between processes.

`LedgerActor` implements them. A caller names one of them, and mypy checks its arguments and its answer:

    results = await remote(handle, LedgerCalls.record, events)

In a rolling deployment replicas of two versions call the same actor, so a call keeps its name and its arguments.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from db.brands import BrandSettings, PortfolioSettings
from ledger.bidding.revenue_completion import DaySums
from ledger.domain.messages import Change, Event, Release, Reply, Result
from ledger.runtime.generations import Identity

P = ParamSpec("P")
T = TypeVar("T")


class LedgerCalls(Protocol):
    """Each raises LedgerUnavailable while the database does not answer, or if another ledger has taken over."""

    # Beats

    async def identity(self) -> Identity:
        """The settings that it runs with; answered without the database."""
        ...

    async def beat(self, packed: bytes) -> Reply:
        """Record wins, take leases back and grant new ones.

        Args:
            packed: a `Beat`, by `pack_beat`.
        """
        ...

    async def listen(self, replica: str) -> bool:
        """Wait until the replica should beat at once (True) or LISTEN_S have passed (False); see `Wakeup`."""
        ...

    async def summon(self, seconds: float, replica: str) -> None:
        """Make all replicas but this one beat now, and wait for that, at most so many seconds."""
        ...

    async def end_sessions(self, since: dt.datetime) -> int:
        """See `Ledger.end_sessions`."""
        ...

    # After a win

    async def release(self, reservation_ids: Sequence[str] | Release) -> int | dict[str, str]:
        """See `Ledger.release`; for a `Release`, `Ledger.give_back`."""
        ...

    async def record(self, events: Sequence[Event]) -> list[Result]:
        """See `Ledger.record`; a result for each event, in order."""
        ...

    # Administration; a brand or portfolio of another shard raises OtherShard

    async def put_brand(self, brand_id: str, settings: BrandSettings | Change) -> dict[str, Any]:
        """Create, replace or change a brand, and return it as GET /api/brands/{brand_id} shows it.

        Args:
            settings: replicas of the version before send settings, which replace what there is.

        Raises:
            NotFound, PreconditionFailed, SettingsInvalid, PortfolioUnknown, PortfolioMismatch, CurrencyFixed: nothing
                was changed.
        """
        ...

    async def get_brand(self, brand_id: str) -> dict[str, Any]:
        """Raises NotFound."""
        ...

    async def list_brands(self, cursor: str | None = None, limit: int = 100) -> tuple[list[dict[str, Any]], str | None]:
        """A page of the shard's brands, and the cursor of the next page (None: that was the last)."""
        ...

    async def put_portfolio(self, portfolio_id: str, settings: PortfolioSettings | Change) -> dict[str, Any]:
        """Create, replace or change a portfolio, and return it as GET /api/portfolios/{portfolio_id} shows it.

        Args:
            settings: replicas of the version before send settings, which replace what there is.

        Raises:
            NotFound, PreconditionFailed, SettingsInvalid, PortfolioMismatch, CurrencyFixed: nothing was
            changed.
        """
        ...

    async def get_portfolio(self, portfolio_id: str) -> dict[str, Any]:
        """Raises NotFound."""
        ...

    async def slot_roas(
        self, brand_id: str, days: Mapping[int, DaySums], window_days: int, today_fraction: float
    ) -> float:
        """The current ROAS of a part of a brand (a slot), computed as `brand_roas_current` is; NaN if not known."""
        ...


Call = Callable[Concatenate[LedgerCalls, P], Awaitable[T]]
"""One of the calls, as `LedgerCalls.record` names it."""


def remote(handle: Any, call: Call[P, T], *args: P.args, **kwargs: P.kwargs) -> Awaitable[T]:
    """Call the actor behind a Ray handle.

    Returns:
        Ray's reference to the answer, to be awaited or given to `ray.get`.
    """
    answer: Awaitable[T] = getattr(handle, call.__name__).remote(*args, **kwargs)
    return answer
