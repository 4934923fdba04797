"""The built-in simulated market: a seeded history to try Paceline on. Invented, and labelled so wherever it shows."""

from __future__ import annotations

import datetime as dt
from typing import NamedTuple

import numpy as np
import pandas as pd

SOURCE = "simulated"
DAYS = 60
SEED = 20201122
N_PARTNERS = 9
PARTNERS_OF_A_BRAND = 6
SLOTS_OF_A_PARTNER = 4
DEVICES = ("desktop", "mobile", "tablet")
DEVICE_SHARE = np.array([0.38, 0.52, 0.10])
CREATIVES = ("160x600", "300x250", "320x50", "728x90", "native")
WEEKDAY = np.array([1.04, 1.06, 1.05, 1.02, 0.96, 0.88, 0.93])
"""Traffic by day of week, Monday first."""
CONVERSION_DELAY_DAYS = 3.0
"""Mean of the exponential delay from click to conversion."""
APPROVAL_DELAY_DAYS = 12.0
"""Mean of the exponential delay from conversion to its approval or rejection."""


class MarketBrand(NamedTuple):
    name: str
    order_value: float  # mean commission of a conversion, currency units
    ctr: float
    cvr: float  # conversions per click
    approval: float  # share of conversions that are approved
    margin: float  # mean revenue ÷ cost


BRANDS = (
    MarketBrand("brand-atlas", 4.5, 0.0075, 0.060, 0.92, 1.45),
    MarketBrand("brand-boreal", 9.0, 0.0048, 0.035, 0.85, 1.25),
    MarketBrand("brand-cedar", 2.2, 0.0110, 0.090, 0.95, 1.60),
    MarketBrand("brand-delta", 15.0, 0.0031, 0.024, 0.78, 1.10),
    MarketBrand("brand-ember", 6.5, 0.0064, 0.044, 0.88, 1.35),
    MarketBrand("brand-fjord", 3.2, 0.0092, 0.066, 0.90, 0.95),
    MarketBrand("brand-grove", 21.0, 0.0024, 0.019, 0.72, 1.20),
    MarketBrand("brand-harbor", 8.0, 0.0056, 0.036, 0.84, 1.05),
)


def performance(last_day: dt.date, days: int = DAYS, seed: int = SEED) -> pd.DataFrame:
    """Daily rows of `days` days up to `last_day`, the same for the same arguments.

    Returns:
        The columns of the canonical CSV (`ts` as datetime64 in UTC, money in currency units) and
        `pending_revenue`: commission that is neither approved nor rejected by the end of `last_day`.
    """
    random = np.random.default_rng(seed)
    places = _places(random)
    n, first = len(places), last_day - dt.timedelta(days=days - 1)
    calendar = np.array([np.datetime64(first) + day for day in range(days)])
    weekdays = np.array([(first + dt.timedelta(days=day)).weekday() for day in range(days)])

    drift = np.exp(np.cumsum(random.normal(0, 0.02, (len(BRANDS), days)), axis=1))[places["brand"]]
    volume = places["volume"].to_numpy()[:, None] * WEEKDAY[weekdays] * np.exp(random.normal(0, 0.25, (n, days)))
    impressions = random.poisson(volume)
    clicks = random.binomial(
        impressions, np.clip(places["ctr"].to_numpy()[:, None] * np.exp(random.normal(0, 0.1, (n, days))), 0, 0.5)
    )
    converting = random.binomial(clicks, np.clip(places["cvr"].to_numpy()[:, None] * drift, 0, 0.6))
    conversions = _delayed(random, converting, CONVERSION_DELAY_DAYS)

    value = places["value"].to_numpy()[:, None] * np.exp(random.normal(-0.125, 0.5, (n, days)))
    commission = conversions * value
    age = np.arange(days - 1, -1, -1) + 0.5
    decided = 1.0 - np.exp(-age / APPROVAL_DELAY_DAYS)
    approval = places["approval"].to_numpy()[:, None]
    approved = random.binomial(conversions, np.broadcast_to(approval * decided, conversions.shape))
    pending = random.binomial(
        conversions - approved, np.broadcast_to((1 - decided) / (1 - approval * decided), conversions.shape)
    )
    cpm = places["cpm"].to_numpy()[:, None] * np.exp(random.normal(0, 0.08, (n, days)))

    present = impressions > 0
    rows, at = np.nonzero(present)
    of = places.iloc[rows]
    per_conversion = np.where(conversions > 0, commission / np.maximum(conversions, 1), 0.0)
    frame = pd.DataFrame(
        {
            "ts": pd.to_datetime(calendar[at]).tz_localize("UTC"),
            **{
                name: of[name].to_numpy()
                for name in ("brand_id", "partner_id", "slot_id", "device_type", "creative_type")
            },
            "placement_score": of["placement_score"].to_numpy(),
            "impressions": impressions[present],
            "clicks": clicks[present],
            "conversions": conversions[present],
            "cost": (impressions * cpm / 1000)[present].round(6),
            "revenue": (approved * per_conversion)[present].round(6),
            "pending_revenue": (pending * per_conversion)[present].round(6),
        }
    )
    return frame.sort_values(
        ["ts", "brand_id", "partner_id", "slot_id", "device_type", "creative_type"], ignore_index=True
    )


def _places(random: np.random.Generator) -> pd.DataFrame:
    """Where the brands advertise, with what is true there."""
    rows = []
    partner_quality = np.exp(random.normal(0, 0.35, N_PARTNERS))
    partner_volume = np.exp(random.normal(0, 0.7, N_PARTNERS))
    slot_score = np.round(random.beta(4, 2.5, (N_PARTNERS, SLOTS_OF_A_PARTNER)), 2)
    for number, brand in enumerate(BRANDS):
        for partner in random.choice(N_PARTNERS, PARTNERS_OF_A_BRAND, replace=False):
            fit = np.exp(random.normal(0, 0.3))
            for slot in range(SLOTS_OF_A_PARTNER):
                creatives = random.choice(len(CREATIVES), 2, replace=False)
                for device, share in enumerate(DEVICE_SHARE):
                    # Not every slot exists on every device.
                    if random.random() > 0.55:
                        continue
                    for creative in creatives:
                        score = slot_score[partner, slot]
                        ctr = brand.ctr * fit * (0.5 + score) * (0.8, 1.1, 0.9)[device] * np.exp(random.normal(0, 0.2))
                        cvr = (
                            brand.cvr
                            * partner_quality[partner]
                            * (1.3, 0.8, 1.0)[device]
                            * np.exp(random.normal(0, 0.2))
                        )
                        value = brand.order_value * np.exp(random.normal(0, 0.2))
                        expected = ctr * cvr * value * brand.approval
                        margin = brand.margin * np.exp(random.normal(0, 0.25))
                        rows.append(
                            {
                                "brand": number,
                                "brand_id": brand.name,
                                "partner_id": f"partner-{partner + 1}",
                                "slot_id": f"p{partner + 1}:slot-{slot + 1}",
                                "device_type": DEVICES[device],
                                "creative_type": CREATIVES[creative],
                                "placement_score": float(score),
                                "volume": 8000 * partner_volume[partner] * share * np.exp(random.normal(0, 0.8)),
                                "ctr": ctr,
                                "cvr": cvr,
                                "value": value,
                                "approval": brand.approval,
                                "cpm": 1000 * expected / margin,
                            }
                        )
    return pd.DataFrame(rows)


def _delayed(random: np.random.Generator, counts: np.ndarray, mean_days: float) -> np.ndarray:
    """(n, days) counts moved to the day at which they happen; what falls behind the last day is not seen."""
    rows, days = np.nonzero(counts)
    repeated = counts[rows, days]
    rows, days = np.repeat(rows, repeated), np.repeat(days, repeated)
    days = days + random.exponential(mean_days, len(days)).astype(np.int64)
    seen = days < counts.shape[1]
    moved = np.zeros_like(counts)
    np.add.at(moved, (rows[seen], days[seen]), 1)
    return moved
