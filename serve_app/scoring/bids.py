"""A request's bids as columns, since everything after parsing works on all of them at once."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field

from db.fields import ID_CHARACTERS, ID_MOST_CHARACTERS
from serve_app.prediction.columns import PlacementKey
from serve_app.schemas.score import Bid

_ID_BYTES = ID_CHARACTERS.encode()


@dataclass(slots=True)
class Bids:
    """n values of each field of `schemas.score.Bid`, optional fields last, in the order of the parsed struct."""

    bid_id: Sequence[str]
    brand_id: Sequence[str]
    partner_id: Sequence[str]
    slot_id: Sequence[str]
    device_type: Sequence[str]
    creative_type: Sequence[str]
    pricing_model: Sequence[str]
    placement_score: Sequence[float | None]
    price_micros: Sequence[int | None]
    revenue_share: Sequence[float | None]
    keys: Sequence[PlacementKey] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.keys = list(
            zip(
                self.brand_id,
                self.partner_id,
                self.slot_id,
                self.device_type,
                self.creative_type,
                self.placement_score,
                strict=True,
            )
        )

    @classmethod
    def of(cls, bids: Iterable[Bid]) -> Bids:
        return cls(*zip(*(tuple(getattr(bid, name) for name in FIELDS) for bid in bids), strict=True))

    def __len__(self) -> int:
        return len(self.bid_id)

    def have_ids(self) -> bool:
        """Whether brand, partner, slot, device and creative are all ids. Known keys need no check: they had it."""
        return are_ids({*self.brand_id, *self.partner_id, *self.slot_id, *self.device_type, *self.creative_type})

    def are_priced(self) -> bool:
        """Whether each bid has the kind of price that its pricing model needs, and only that."""
        if "revshare" not in self.pricing_model:
            return None not in self.price_micros and self.revenue_share.count(None) == len(self.revenue_share)
        return all(
            (share is not None and price is None) if model == "revshare" else (price is not None and share is None)
            for model, price, share in zip(self.pricing_model, self.price_micros, self.revenue_share, strict=True)
        )


FIELDS = tuple(name for name in Bids.__dataclass_fields__ if name != "keys")


def are_ids(names: Collection[str]) -> bool:
    """Whether all of these names (at least one) are what `db.brands.Id` allows."""
    if max(map(len, names)) > ID_MOST_CHARACTERS or "" in names or "." in names or ".." in names:
        return False
    text = "\n".join(names)
    return text.isascii() and text.encode().translate(None, _ID_BYTES) == b"\n" * (len(names) - 1)
