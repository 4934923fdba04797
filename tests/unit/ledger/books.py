"""A ledger in a dict: the pure rules with nothing around them."""

import dataclasses
import datetime as dt
import itertools
from types import SimpleNamespace

from db.brands import BrandSettings
from ledger.account import Budget
from ledger.brand import Brand
from ledger.claims import Awarding, Recorded
from ledger.page import BudgetKey, Entry, Page, budget_keys
from ledger.posting import Posting
from ledger.reservation import Lifetimes, Reservation
from ledger.settlement import Figures, RowKey
from ledger.types import Award, Claim, Event, Offer, Result, Tuple

NOW = dt.datetime(2024, 5, 1, 12, tzinfo=dt.UTC)
LIVES = Lifetimes(1800.0, 30)
HOUR = dt.timedelta(hours=1)


def where(brand_id: str = "b", slot_id: str = "s", partner_id: str = "p") -> Tuple:
    return Tuple(brand_id, partner_id, slot_id, "mobile", "160x600", 0.5)


def offer(
    bid_id: str = "bid", brand_id: str = "b", amount: int = 100, model: str = "cpm", partner_id: str = "p"
) -> Offer:
    return Offer(bid_id, where(brand_id, partner_id=partner_id), model, amount)


def claim(*offers: Offer, request_id: str = "r", winners: int = 1, body: str = "body") -> Claim:
    return Claim("sub", request_id, body, winners, offers, within_s=1.0)


def event(
    event_id: str, type_: str, *, place: bool = True, at: dt.datetime = NOW, brand_id: str = "b", **fields
) -> Event:
    slot = (
        {"slot_id": "s", "device_type": "mobile", "creative_type": "160x600", "placement_score": 0.5} if place else {}
    )
    return Event(event_id, type_, at, brand_id, **({"partner_id": "p"} | slot | fields))


class Books:
    """Every call is one transaction of the real rules over dicts."""

    def __init__(self, **brands: BrandSettings) -> None:
        self.brands = {id_: Brand(id_, settings, NOW) for id_, settings in brands.items()}
        self.limits: dict[tuple[str, str], int | None] = {
            ("brand", id_): settings.daily_budget_micros for id_, settings in brands.items()
        }
        self.now = NOW
        self.budgets: dict[BudgetKey, Budget] = {}
        self.reservations: dict[str, Reservation] = {}
        self.figures: dict[RowKey, Figures] = {}
        self.claimed: dict[tuple[str, str], list[tuple[str, str, str]]] = {}
        self.rows: list[SimpleNamespace] = []
        self.entries: list[Entry] = []
        self._ids = map("res-{}".format, itertools.count(1))

    def page(self, keys) -> Page:
        found = [self.budgets[key] for key in keys if key in self.budgets]
        return Page(self.now, found, lambda owner, owner_id: self.limits[(owner, owner_id)])

    def write(self, page: Page) -> None:
        self.budgets |= page.changed_budgets
        self.reservations |= page.new_reservations | page.changed_reservations
        self.entries += page.entries

    def reserve(self, *claims: Claim) -> list[Award]:
        keys = {
            key
            for brand in self.brands.values()
            for key in budget_keys(brand.brand_id, brand.settings.portfolio_id, brand.day(self.now))
        }
        page = self.page(keys)
        awarding = Awarding(page, self._recorded(), self.brands, LIVES, lambda: next(self._ids))
        awards = [awarding.award(claim) for claim in claims]
        for id_, row in awarding.rows.items():
            self.claimed.setdefault((row["sub"], row["request_id"]), []).append(
                (row["request_hash"], row["bid_id"], id_)
            )
        self.write(page)
        for id_ in awarding.confirmed:
            self.reservations[id_] = dataclasses.replace(self.reservations[id_], confirmed=True)
        return awards

    def _recorded(self) -> dict[tuple[str, str], list[Recorded]]:
        found: dict[tuple[str, str], list[Recorded]] = {}
        for request, wins in self.claimed.items():
            for request_hash, bid_id, id_ in wins:
                held = self.reservations[id_]
                win = Recorded(request_hash, held.status, bid_id, id_, held.amount_micros, held.expires_at)
                found.setdefault(request, []).append(win)
        return found

    def end(self, reservation_id: str, status: str) -> None:
        page = self.page(self.budgets)
        page.end(self.reservations[reservation_id], status)
        self.write(page)

    def record(self, *events: Event) -> list[Result]:
        hashes = {(row.brand_id, row.partner_id, row.event_id): row.content_hash for row in self.rows}
        clicks = [row for row in self.rows if row.type == "click" and row.click_id]
        groups = [row for row in self.rows if row.conversion_id]
        posting = Posting(self.now, events, self.brands, hashes, clicks, groups, self.reservations)
        page = self.page(posting.budget_keys)
        results = posting.post(page, {key: self.figures[key] for key in posting.row_keys if key in self.figures})
        self.write(page)
        for key, figures in posting.changed_figures.items():
            if any(figures) or key.kind != "event":
                self.figures[key] = figures
            else:
                self.figures.pop(key, None)
        self.rows += [SimpleNamespace(**row) for row in posting.event_rows]
        for row in self.rows:
            if fact := posting.completed.get((row.brand_id, row.partner_id, row.event_id)):
                row.day, row.portfolio_id, row.reservation_id = fact.day, fact.portfolio_id, fact.reservation_id
                row.__dict__.update(fact.place._asdict() if fact.place else {})
        return results

    def budget(self, brand_id: str = "b") -> Budget:
        return next(budget for key, budget in self.budgets.items() if key[:2] == ("brand", brand_id))

    def state(self):
        """All that must not depend on the order of events; a day from which all was taken back is as if never begun."""
        budgets = {key: budget for key, budget in self.budgets.items() if budget.out_micros}
        return budgets, self.reservations, self.figures
