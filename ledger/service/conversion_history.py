"""Learns from events which share of each brand's conversions is approved, and how long after the click they come."""

from __future__ import annotations

from ledger.bidding.revenue_completion import History, still_needed
from ledger.service.ledger import Ledger

HISTORY_EVENTS = 1_000_000
"""How many of the newest events a starting ledger learns from."""


class ConversionHistory:
    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._by_brand: dict[str, History] = {}
        self._seq: int | None = None

    def of(self, brand_id: str) -> History:
        return self._by_brand.get(brand_id, History())

    def usual(self) -> History:
        """All brands' approved and rejected conversions together."""
        return History(
            sum(history.approved for history in self._by_brand.values()),
            sum(history.rejected for history in self._by_brand.values()),
        )

    @property
    def is_delayed(self) -> bool:
        """Whether the delay of any conversion after its click is known."""
        return any(sum(history.delays) for history in self._by_brand.values())

    async def learn(self) -> None:
        """Learn from the conversions since the last call, and set the holds' delay curves.

        Raises:
            LedgerUnavailable: the database does not answer.
        """
        found = await self._ledger.performance.conversions_after(self._seq, HISTORY_EVENTS)
        most = self._ledger.settings.conversion_days
        for brand_id, status, number in found.decided:
            self._add(brand_id, History(*((number, 0) if status == "approved" else (0, number))))
        counts: dict[str, list[int]] = {}
        for brand_id, converted_at, clicked_at in found.delays:
            days = min(max((converted_at - clicked_at).days, 0), most - 1)
            counts.setdefault(brand_id, [0] * most)[days] += 1
        for brand_id, numbers in counts.items():
            self._add(brand_id, History(delays=tuple(numbers)))
        if counts:
            curves = {id_: still_needed(history, most) for id_, history in self._by_brand.items()}
            self._ledger.holds.set_delay_curves({id_: curve for id_, curve in curves.items() if curve is not None})
        self._seq = found.newest

    def _add(self, brand_id: str, history: History) -> None:
        self._by_brand[brand_id] = self.of(brand_id).plus(history)
