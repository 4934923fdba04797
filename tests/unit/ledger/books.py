"""A ledger in a dict: the pure rules with nothing around them."""

import datetime as dt
import itertools
from collections.abc import Mapping
from dataclasses import replace
from types import SimpleNamespace

from db.brands import BrandSettings
from ledger.domain import reservation_ids
from ledger.domain.brand import Brand
from ledger.domain.budget import Budget
from ledger.domain.budget_day import day_ends_at
from ledger.domain.messages import BrandTerms, Claim, Event, Offer, Placement, Result, Terms, WinDetails, WinRecord
from ledger.domain.reservation import OPEN, Lifetimes, Reservation, due_at, expires_at
from ledger.domain.settlement import Figures, RowKey
from ledger.domain.slack import Price, Slack
from ledger.transaction.event_posting import EventPosting
from ledger.transaction.lease_granting import LeaseGranting, Recorded
from ledger.transaction.working_set import BudgetKey, Entry, LeaseKey, Lent, WorkingSet

NOW = dt.datetime(2024, 5, 1, 12, tzinfo=dt.UTC)
LIVES = Lifetimes(1800.0, 30)
HOUR = dt.timedelta(hours=1)


def where(brand_id: str = "b", slot_id: str = "s", partner_id: str = "p") -> Placement:
    return Placement(brand_id, partner_id, slot_id, "mobile", "160x600", 0.5)


def offer(
    bid_id: str = "bid",
    brand_id: str = "b",
    amount: int = 100,
    model: str = "cpm",
    partner_id: str = "p",
    roas: float = 10.0,
) -> Offer:
    """A bid that is predicted to earn `roas` × its cost."""
    return Offer(bid_id, where(brand_id, partner_id=partner_id), model, amount, roas * amount, amount)


def claim(*offers: Offer, request_id: str = "r", winners: int = 1, body: str = "body") -> Claim:
    return Claim("sub", request_id, body, winners, offers, within_s=1.0)


def terms_of(**changes) -> BrandTerms:
    """A brand's, with a budget of 1000 for a day that ends at midnight."""
    known = BrandTerms("EUR", True, 1.0, 1.0, 1.0, 1.0, False, NOW.date(), day_ends_at("UTC", NOW), None, 1000, None)
    return replace(known, **changes)


def event(
    event_id: str, type_: str, *, place: bool = True, at: dt.datetime = NOW, brand_id: str = "b", **fields
) -> Event:
    slot = (
        {"slot_id": "s", "device_type": "mobile", "creative_type": "160x600", "placement_score": 0.5} if place else {}
    )
    return Event(event_id, type_, at, brand_id, **({"partner_id": "p"} | slot | fields))


def drawn(
    sequence: int = 1, amount: int = 100, session_id: int = 1, model: str = "cpm", at: dt.datetime = NOW
) -> reservation_ids.DecodedId:
    return reservation_ids.DecodedId(int(at.timestamp() * 1000), session_id, sequence, amount, at.date(), model)


def win(one: reservation_ids.DecodedId, brand_id: str = "b", request_id: str = "r", award_id: str = "a") -> WinRecord:
    """What a replica tells of a win that it has drawn."""
    id_ = reservation_ids.encode(one, brand_id, "p", b"secret")
    return WinRecord(id_, award_id, "sub", request_id, "body", "bid", where(brand_id))


def is_genuine(reservation_id: str, brand_id: str, partner_id: str, secret: bytes) -> bool:
    """Whether the session with this secret made the id for this brand and partner."""
    claimed = reservation_ids.parse(reservation_id)
    return claimed is not None and claimed.is_genuine(brand_id, partner_id, secret)


class Books:
    """Every call is one transaction of the real rules over dicts."""

    def __init__(self, **brands: BrandSettings) -> None:
        self.brands = {id_: Brand(id_, settings, NOW) for id_, settings in brands.items()}
        self.limits: dict[tuple[str, str], int | None] = {
            ("brand", id_): settings.daily_budget_micros for id_, settings in brands.items()
        }
        self.now = NOW
        self.heard_at = NOW + 40 * HOUR
        """When events are recorded: late, so that each may say its own time, while holds are as they were at `now`."""
        self.budgets: dict[BudgetKey, Budget] = {}
        self.leases: dict[LeaseKey, Lent] = {}
        self.slacks: dict[BudgetKey, Slack] = {}
        self.factors: dict[str, float] = {}
        self.portfolio_target = 1.0
        self.reservations: dict[str, Reservation] = {}
        self.figures: dict[RowKey, Figures] = {}
        self.rows: list[SimpleNamespace] = []
        self.entries: list[Entry] = []
        self.said: dict[str, dict] = {}
        """What only the record of a win knows, by its reservation."""
        self._ids = map("res-{}".format, itertools.count(1))

    def working_set(self, keys) -> WorkingSet:
        found = [self.budgets[key] for key in keys if key in self.budgets]
        slacks = self.slacks.values()
        return WorkingSet(self.now, found, lambda owner, owner_id: self.limits[(owner, owner_id)], self.leases, slacks)

    def write(self, working_set: WorkingSet) -> None:
        self.budgets |= working_set.changed_budgets
        self.slacks |= working_set.changed_slacks
        self.leases = {
            key: lent for key, lent in (self.leases | working_set.changed_leases).items() if not lent.is_empty
        }
        self.reservations |= working_set.new_reservations | working_set.changed_reservations
        self.entries += working_set.entries
        for batch in working_set.batches:
            for row in _rows(batch.reservations()):
                said = {name: row.pop(name) for name in tuple(row) if name not in Reservation.__dataclass_fields__}
                self.reservations[row["reservation_id"]] = Reservation(**row)
                self.said[row["reservation_id"]] = said
            self.entries += [Entry(**row) for row in _rows(batch.entries())]

    def reserve(self, *claims: Claim) -> None:
        """Each claim's first offer wins: lent, drawn and recorded at once, as `res-1`, `res-2`…"""
        for claim in claims:
            (offer, *_) = claim.offers
            brand = self.brands[offer.where.brand_id]
            key = LeaseKey(1, brand.brand_id, brand.day(self.now))
            working_set = self.working_set(self.budgets)
            working_set.lend(key, brand.settings.portfolio_id, offer.amount_micros, lasting=True)
            working_set.hold(key, self._hold(offer, brand.settings.portfolio_id, key.day))
            self.write(working_set)

    def _hold(self, offer: Offer, portfolio_id: str | None, day: dt.date) -> Reservation:
        end = expires_at(offer.pricing_model, self.now, LIVES)
        return Reservation(
            next(self._ids), offer.where.brand_id, portfolio_id, offer.where.partner_id, offer.pricing_model, day,
            offer.amount_micros, offer.amount_micros, 0, OPEN, self.now, end,
            due_at(offer.pricing_model, self.now, end, self.now), session_id=1, award_id="award",
        )  # fmt: skip

    def leasing(
        self, holders: int = 1, details: Mapping[str, WinDetails] | None = None
    ) -> tuple[WorkingSet, LeaseGranting]:
        """One transaction of beats; `write_beats` ends it."""
        working_set = self.working_set(self.budgets)
        recorded: dict[tuple[str, str], list[Recorded]] = {}
        for id_, said in self.said.items():
            held = self.reservations[id_]
            one = Recorded(held.award_id, id_, held.brand_id, held.status)
            recorded.setdefault((said["sub"], said["request_id"]), []).append(one)
        return working_set, LeaseGranting(
            working_set, self.brands, self.reservations, recorded, LIVES, holders, None, details, self.prices()
        )

    def prices(self) -> dict[str, list[Price]]:
        """Target ROAS 1 for all brands, and the same factor for a portfolio as for its member."""
        found = {}
        for id_, brand in self.brands.items():
            factor = self.factors.get(id_, 1.0)
            of_portfolio = [] if brand.settings.portfolio_id is None else [Price(self.portfolio_target, factor)]
            found[id_] = [Price(1.0, factor), *of_portfolio]
        return found

    def write_beats(self, working_set: WorkingSet, leasing: LeaseGranting) -> None:
        self.write(working_set)
        self.said |= leasing.rows | leasing.completed
        for id_, said in leasing.completed.items():
            self.reservations[id_] = replace(self.reservations[id_], award_id=said["award_id"])

    def terms(self, version: int = 1) -> Terms:
        return Terms(version, {id_: self._terms_of(brand) for id_, brand in self.brands.items()})

    def _terms_of(self, brand: Brand) -> BrandTerms:
        settings = brand.settings
        return terms_of(
            active=settings.active,
            day=brand.day(self.now),
            day_ends_at=day_ends_at(settings.timezone, self.now),
            portfolio_id=settings.portfolio_id,
            budget_micros=settings.daily_budget_micros,
            portfolio_budget_micros=self.limits.get(("portfolio", settings.portfolio_id or "")),
            factor=self.factors.get(brand.brand_id, 1.0),
            portfolio_target_roas=None if settings.portfolio_id is None else self.portfolio_target,
        )

    def end(self, reservation_id: str, status: str) -> None:
        working_set = self.working_set(self.budgets)
        working_set.end(self.reservations[reservation_id], status)
        self.write(working_set)

    def record(self, *events: Event) -> list[Result]:
        hashes = {(row.brand_id, row.partner_id, row.event_id): row.content_hash for row in self.rows}
        clicks = [row for row in self.rows if row.type == "click" and row.click_id]
        groups = [row for row in self.rows if row.conversion_id]
        posting = EventPosting(self.heard_at, events, self.brands, hashes, clicks, groups, self.reservations)
        working_set = self.working_set(posting.budget_keys)
        results = posting.post(working_set, {key: self.figures[key] for key in posting.row_keys if key in self.figures})
        self.write(working_set)
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


def _rows(columns):
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
