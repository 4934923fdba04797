"""The gate's rules: may the challenger (the night's version) replace the champion (the live one)? Pure.

Neither side was trained on the newest day (the challenger is judged by trees fitted without it), so it decides which is
better. Both were trained on the week before it, with each row's features as of the day before: there the challenger
must not have lost what the champion knows, as happens when one broken day gets into the training. The same holds for
the champion's golden rows. A challenger that is clearly better on the newest day may differ on the week and on the
golden rows, as it must after a payout has really changed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from training.gate.metrics import Metrics
from training.settings import ModelSettings

CLEARLY = 0.95
"""A challenger with at most this share of the champion's deviance on the newest day is clearly better."""
NO_WORSE = 1.1
"""A log calibration at most this many times the champion's counts as equally good: the day surprised both."""
EXACT, GOOD_BRAND = 0.01, 0.1
"""Predictions that are wrong by this share, overall and for a brand, always pass, however good the champion is."""


class SideBySide(NamedTuple):
    """Both sides on the same rows."""

    challenger: Metrics | None  # None: it could not be judged
    champion: Metrics | None  # None: there is none, or it was trained on these rows and the challenger was not
    mean_micros: float = 0.0  # realised revenue per exposure


class BrandMetrics(NamedTuple):
    """Both sides on a brand's rows."""

    brand_id: str
    challenger: Metrics
    champion: Metrics
    mean_micros: float


class RowCounts(NamedTuple):
    """How many rows of history there are, and how many there should be (None where that is not known)."""

    newest: int = 0  # rows of the newest day
    usual: float | None = None  # median of a day in the week before; None: the newest is not over, or too few days
    known: int = 0  # rows that are left of the days that the champion was trained on
    learned: int | None = None  # rows that the champion was trained on


class BrandShift(NamedTuple):
    """A brand whose golden rows are predicted differently: median |log(challenger ÷ champion)|."""

    brand_id: str
    shift: float


class Comparison(NamedTuple):
    """Everything that the gate decides on."""

    has_champion: bool
    day: SideBySide
    week: SideBySide
    brands: Sequence[BrandMetrics] = ()
    week_brands: Sequence[BrandMetrics] = ()
    rows: RowCounts = RowCounts()
    score_shift: float | None = None  # median |log(challenger ÷ champion)| over the champion's golden rows
    brand_shift: BrandShift | None = None  # the same of the brand that moved most, among those with several such rows


class Check(NamedTuple):
    """One of the gate's conditions, with the figures that decided it."""

    check: str
    passed: bool
    detail: str


class Verdict(NamedTuple):
    """Whether the challenger may go live."""

    accepted: bool
    reason: str
    checks: tuple[Check, ...] = ()


def decide(compared: Comparison, settings: ModelSettings) -> Verdict:
    """Accepted if every possible check passes, or if there is no champion, since some version must be live."""
    if not compared.has_champion:
        return Verdict(True, "no champion to compare with")
    checks = tuple(_checks(compared, settings))
    lost = [check for check in checks if not check.passed]
    if lost:
        return Verdict(False, "; ".join(check.detail for check in lost), checks)
    return Verdict(True, _first_word(checks), checks)


def _first_word(checks: Sequence[Check]) -> str:
    """The reason that is given for a challenger that passed: the newest day's check if there was one."""
    return next((check.detail for check in checks if check.check == "newest day"), checks[0].detail)


def _checks(compared: Comparison, settings: ModelSettings) -> Iterator[Check]:
    yield from _rows(compared.rows, settings)
    day = compared.day
    if day.champion is None:
        yield Check("newest day", True, "the champion was trained on the newest day: not compared on it")
        is_better = False
    elif day.champion.exposure < settings.gate_exposure:
        few = f"not compared on the newest day: it has {day.champion.exposure:.0f} impressions, too few"
        yield Check("newest day", True, few)
        is_better = False
    elif day.challenger is None:
        yield Check("newest day", False, "the challenger cannot be judged: the history has one day only")
        is_better = False
    else:
        yield _deviance("newest day", day, settings.gate_deviance, settings)
        yield _calibration("newest day", day.challenger, day.champion, settings.gate_calibration)
        yield from _worst_brand("newest day", compared.brands, settings)
        is_better = day.challenger.deviance < CLEARLY * day.champion.deviance
    week = compared.week
    if week.challenger is None or week.champion is None or week.champion.exposure < settings.gate_exposure:
        yield Check("week", True, "not compared on the week: both were trained on too few impressions of it")
    else:
        for check in (
            _deviance("week", week, settings.gate_week_deviance, settings),
            _calibration("week", week.challenger, week.champion, settings.gate_calibration),
            *_worst_brand("week", compared.week_brands, settings),
        ):
            yield _forgiven(check, is_better)
    if compared.score_shift is not None:
        check = _shift("score shift", "the champion's golden rows", compared.score_shift, settings.gate_score_shift)
        yield _forgiven(check, is_better)
    if compared.brand_shift is not None:
        brand_id, shift = compared.brand_shift
        words = f"the champion's golden rows of {brand_id}"
        yield _forgiven(_shift("brand's score shift", words, shift, settings.gate_brand_score_shift), is_better)


def _rows(rows: RowCounts, settings: ModelSettings) -> Iterator[Check]:
    if rows.learned:
        share = rows.known / rows.learned
        words = f"{rows.known} of the {rows.learned} rows that the champion was trained on are left"
        yield Check(
            "rows of the history", share >= settings.gate_history_rows, _allowed(words, settings.gate_history_rows)
        )
    if rows.usual:
        words = f"the newest day has {rows.newest} rows, usually a day has {rows.usual:.0f}"
        passed = rows.newest >= settings.gate_day_rows * rows.usual
        yield Check("rows of the newest day", passed, _allowed(words, settings.gate_day_rows))


def _allowed(words: str, share: float) -> str:
    return f"{words}, at least {share:.0%} needed"


def _deviance(name: str, sides: SideBySide, times: float, settings: ModelSettings) -> Check:
    assert sides.challenger is not None and sides.champion is not None
    most = max(times * sides.champion.deviance, missing_by(EXACT, sides.mean_micros, settings.tweedie_power))
    words = f"deviance {sides.challenger.deviance:.4g} on the {name}, the champion's is {sides.champion.deviance:.4g}"
    if sides.challenger.deviance <= most:
        return Check(name, True, words)
    return Check(name, False, f"{words}, at most {most:.4g} allowed")


def _calibration(name: str, challenger: Metrics, champion: Metrics, times: float) -> Check:
    words = f"calibration {challenger.calibration:.3f} on the {name}, allowed {1 / times:.2f} to {times:.2f}"
    return Check(f"calibration on the {name}", not _is_off(challenger, champion, times), words)


def _is_off(challenger: Metrics, champion: Metrics, times: float) -> bool:
    """Whether the challenger is outside the allowed range and further out than the champion: a day that no model could
    foresee is not held against it."""
    off = _distance(challenger.calibration)
    return off > math.log(times) and off > _distance(champion.calibration) * NO_WORSE


def _distance(calibration: float) -> float:
    return 0.0 if math.isnan(calibration) else abs(math.log(max(calibration, 1e-9)))


def _worst_brand(name: str, brands: Sequence[BrandMetrics], settings: ModelSettings) -> Iterator[Check]:
    """The brand that is worst by deviance, and the one that is worst by calibration."""
    if not brands:
        return
    worst = worst_brand(brands, settings)
    least = missing_by(GOOD_BRAND, worst.mean_micros, settings.tweedie_power)
    most = max(settings.gate_brand_deviance * worst.champion.deviance, least)
    words = f"deviance {worst.challenger.deviance:.4g} for {worst.brand_id} on the {name}, the champion's is"
    words += f" {worst.champion.deviance:.4g}, at most {most:.4g} allowed"
    yield Check(f"worst brand on the {name}", worst.challenger.deviance <= most, words)
    times = settings.gate_brand_calibration
    off = [each for each in brands if _is_off(each.challenger, each.champion, times)]
    worst = max(off or brands, key=lambda each: _distance(each.challenger.calibration))
    words = f"calibration {worst.challenger.calibration:.3f} for {worst.brand_id} on the {name}"
    words += f", the champion's is {worst.champion.calibration:.3f}, allowed {1 / times:.2f} to {times:.2f}"
    yield Check(f"worst brand's calibration on the {name}", not off, words)


def worst_brand(brands: Sequence[BrandMetrics], settings: ModelSettings) -> BrandMetrics:
    """The brand with the largest deviance as a multiple of what is allowed."""

    def growth(brand: BrandMetrics) -> float:
        least = missing_by(GOOD_BRAND, brand.mean_micros, settings.tweedie_power)
        return brand.challenger.deviance / max(settings.gate_brand_deviance * brand.champion.deviance, least, 1e-12)

    return max(brands, key=growth)


def _shift(name: str, rows: str, shift: float, times: float) -> Check:
    words = f"{rows} are predicted {math.exp(shift):.2f} times as high or low, at most {times:.2f} allowed"
    return Check(name, shift <= math.log(times), words)


def _forgiven(check: Check, is_better: bool) -> Check:
    if check.passed or not is_better:
        return check
    return Check(check.check, True, f"{check.detail}: passed all the same, being clearly better on the newest day")


def missing_by(share: float, mean_micros: float, power: float) -> float:
    """Tweedie deviance of predictions that are wrong by `share` around `mean_micros`; less than that is noise.

    >>> missing_by(0.1, 10_000.0, 1.5)
    1.0
    """
    deviance: float = share**2 * max(mean_micros, 0.0) ** (2 - power)
    return round(deviance, 12)


def report(compared: Comparison, verdict: Verdict, settings: ModelSettings) -> dict[str, Any]:
    """The whole comparison for JSON, as it is stored with the version and shown by `GET /api/models`."""
    worst = worst_brand(compared.brands, settings) if compared.brands else None
    return {
        "accepted": verdict.accepted,
        "reason": verdict.reason,
        "checks": [check._asdict() for check in verdict.checks],
        "newest_day": _shown(compared.day),
        "week": _shown(compared.week),
        "worst_brand": None
        if worst is None
        else {"brand_id": worst.brand_id, "challenger": as_json(worst.challenger), "champion": as_json(worst.champion)},
        "brands_compared": len(compared.brands),
        "rows": compared.rows._asdict(),
        "score_shift": compared.score_shift,
        "brand_shift": compared.brand_shift and compared.brand_shift._asdict(),
    }


def _shown(sides: SideBySide) -> dict[str, Any]:
    return {"challenger": as_json(sides.challenger), "champion": as_json(sides.champion)}


def as_json(metrics: Metrics | None) -> dict[str, Any] | None:
    """Metrics for JSON, which has no NaN: None instead."""
    if metrics is None:
        return None
    return {name: None if np.isnan(value) else value for name, value in metrics._asdict().items()}
