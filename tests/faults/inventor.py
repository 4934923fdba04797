"""Events of a history: what follows its wins, and what nobody expects."""

import datetime as dt
from collections.abc import Callable, Sequence
from dataclasses import replace
from random import Random
from typing import Any

from ledger.domain.messages import Event
from ledger.domain.reservation_ids import DecodedId, decode, encode
from tests.faults.oracle import Answered, Model


class Inventor:
    """Invents events one by one."""

    def __init__(self, rng: Random, model: Model, brand_ids: Sequence[str], wall: Callable[[], dt.datetime]) -> None:
        self._rng, self._model, self._brand_ids, self._wall = rng, model, brand_ids, wall
        self._number = 0

    def _new_number(self) -> int:
        self._number += 1
        return self._number

    def next(self) -> Event:
        rng, model = self._rng, self._model
        kind = rng.random()
        if model.events and kind < 0.12:
            event, _, _ = rng.choice(list(model.events.values()))
            return event if rng.random() < 0.6 else replace(event, cost_micros=(event.cost_micros or 0) + 1)
        conversions = [event for event, _, _ in model.events.values() if event.type == "conversion"]
        if conversions and kind < 0.25:
            return self._update(rng.choice(conversions))
        if not model.wins or kind < 0.32:
            return self._stranger()
        recent = list(model.wins.values())[-12:]
        one = rng.choice(recent if rng.random() < 0.8 else list(model.wins.values()))
        if kind < 0.38:
            return self._forged(one)
        return self.following(one)

    def following(self, one: Answered) -> Event:
        """What usually follows a win."""
        rng, amount = self._rng, one.offer.amount_micros
        cost = rng.choice([amount, rng.randint(0, amount), rng.randint(0, amount), None, 2 * amount + 1])
        type_ = {"cpm": "impression", "cpc": "click"}.get(one.offer.pricing_model, "conversion")
        if rng.random() < 0.15:
            type_, cost = rng.choice(["impression", "click"]), None
        number = self._new_number()
        more: dict[str, Any] = {}
        if type_ == "conversion":
            more = {"conversion_id": f"c{number}", "status": rng.choice(["pending", "approved"]), "revenue_micros": 7}
        where = one.offer.where
        return Event(
            f"e{number}", type_, self._lately(), where.brand_id, where.partner_id, where.slot_id, where.device_type,
            where.creative_type, where.placement_score, one.win.reservation_id, cost_micros=cost, **more,
        )  # fmt: skip

    def _lately(self) -> dt.datetime:
        at = self._wall() - dt.timedelta(seconds=self._rng.choice([0, 1, 1, 30, 7200]))
        return at.replace(microsecond=0)

    def _update(self, conversion: Event) -> Event:
        rng = self._rng
        if conversion.reservation_id is not None:
            self._model.may_end([conversion.reservation_id])
        return Event(
            f"u{self._new_number()}", "conversion_update", self._lately(), conversion.brand_id,
            conversion.partner_id, conversion_id=conversion.conversion_id,
            status=rng.choice([None, "approved", "rejected"]), cost_micros=rng.choice([None, 0, rng.randint(1, 150)]),
        )  # fmt: skip

    def _stranger(self) -> Event:
        """A cost that no win of ours explains."""
        rng = self._rng
        id_ = rng.choice([None, "never-made"])
        return Event(
            f"e{self._new_number()}", rng.choice(["impression", "click"]), self._lately(),
            rng.choice(self._brand_ids), "p1", "s", "mobile", "160x600", 0.5, id_, cost_micros=rng.randint(0, 20),
        )  # fmt: skip

    def _forged(self, one: Answered) -> Event:
        """Somebody makes up an id, or uses another's."""
        event, drawn = self.following(one), decode(one.win.reservation_id)
        assert drawn is not None
        how = self._rng.choice(["partner", "brand", "amount", "sequence"])
        if how == "partner":
            return replace(event, partner_id="p2" if event.partner_id == "p1" else "p1")
        if how == "brand" and len(self._brand_ids) > 1:
            return replace(event, brand_id=next(id_ for id_ in self._brand_ids if id_ != event.brand_id))
        changed: DecodedId = (
            drawn._replace(amount_micros=1) if how == "amount" else drawn._replace(sequence=drawn.sequence + 1000)
        )
        id_ = encode(changed, event.brand_id, event.partner_id, b"another secret")
        return replace(event, reservation_id=id_)
