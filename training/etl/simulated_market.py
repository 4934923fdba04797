"""Generates the simulated market: an invented history to try Paceline with, labelled as simulated wherever it shows."""

from __future__ import annotations

import datetime as dt
from typing import NamedTuple

import numpy as np
import pandas as pd

from training.arrays import Floats, Integers
from training.columns import ID_COLUMNS

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
    """The parameters of a simulated brand."""

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
    first = last_day - dt.timedelta(days=days - 1)
    calendar = np.array([np.datetime64(first) + day for day in range(days)])
    traffic = _traffic(random, places, np.array([(first + dt.timedelta(days=day)).weekday() for day in range(days)]))
    revenue, pending = _commissions(random, places, traffic.conversions)
    cpm = places["cpm"].to_numpy()[:, None] * np.exp(random.normal(0, 0.08, traffic.impressions.shape))

    present = traffic.impressions > 0
    rows, at = np.nonzero(present)
    of = places.iloc[rows]
    frame = pd.DataFrame(
        {
            "ts": pd.to_datetime(calendar[at]).tz_localize("UTC"),
            **{name: of[name].to_numpy() for name in ID_COLUMNS},
            "placement_score": of["placement_score"].to_numpy(),
            "impressions": traffic.impressions[present],
            "clicks": traffic.clicks[present],
            "conversions": traffic.conversions[present],
            "cost": (traffic.impressions * cpm / 1000)[present].round(6),
            "revenue": revenue[present].round(6),
            "pending_revenue": pending[present].round(6),
        }
    )
    return frame.sort_values(["ts", *ID_COLUMNS], ignore_index=True)


class _Traffic(NamedTuple):
    """(places, days) each."""

    impressions: Integers
    clicks: Integers
    conversions: Integers  # on the day when they happen


def _traffic(random: np.random.Generator, places: pd.DataFrame, weekdays: Integers) -> _Traffic:
    """
    Args:
        weekdays: (days,) 0 is Monday.
    """
    shape = len(places), len(weekdays)
    drift = np.exp(np.cumsum(random.normal(0, 0.02, (len(BRANDS), len(weekdays))), axis=1))[places["brand"]]
    volume = places["volume"].to_numpy()[:, None] * WEEKDAY[weekdays] * np.exp(random.normal(0, 0.25, shape))
    impressions = random.poisson(volume)
    ctr = places["ctr"].to_numpy()[:, None] * np.exp(random.normal(0, 0.1, shape))
    clicks = random.binomial(impressions, np.clip(ctr, 0, 0.5))
    converting = random.binomial(clicks, np.clip(places["cvr"].to_numpy()[:, None] * drift, 0, 0.6))
    return _Traffic(impressions, clicks, _delayed(random, converting, CONVERSION_DELAY_DAYS))


def _commissions(random: np.random.Generator, places: pd.DataFrame, conversions: Integers) -> tuple[Floats, Floats]:
    """(places, days) commissions in currency units: (approved by the end of the last day, not decided yet)."""
    days = conversions.shape[1]
    value = places["value"].to_numpy()[:, None] * np.exp(random.normal(-0.125, 0.5, conversions.shape))
    commission = conversions * value
    age = np.arange(days - 1, -1, -1) + 0.5
    decided = 1.0 - np.exp(-age / APPROVAL_DELAY_DAYS)
    approval = places["approval"].to_numpy()[:, None]
    approved = random.binomial(conversions, np.broadcast_to(approval * decided, conversions.shape))
    undecided = np.broadcast_to((1 - decided) / (1 - approval * decided), conversions.shape)
    pending = random.binomial(conversions - approved, undecided)
    per_conversion: Floats = np.where(conversions > 0, commission / np.maximum(conversions, 1), 0.0)
    return approved * per_conversion, pending * per_conversion


def _places(random: np.random.Generator) -> pd.DataFrame:
    """The placements where the brands advertise, with their true rates."""
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
                    # Some slots do not exist on some devices.
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


def _delayed(random: np.random.Generator, counts: Integers, mean_days: float) -> Integers:
    """(n, days) counts moved to the day on which they happen; those after the last day are dropped."""
    rows, days = np.nonzero(counts)
    repeated = counts[rows, days]
    rows, days = np.repeat(rows, repeated), np.repeat(days, repeated)
    days = days + random.exponential(mean_days, len(days)).astype(np.int64)
    seen = days < counts.shape[1]
    moved = np.zeros_like(counts)
    np.add.at(moved, (rows[seen], days[seen]), 1)
    return moved
