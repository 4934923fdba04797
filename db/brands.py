"""The settings of brands and portfolios: one model for the API's bodies, the defaults and the rows."""

from __future__ import annotations

import hashlib
import math
import zoneinfo
from collections.abc import Mapping
from typing import Annotated, Any

import iso4217
from pydantic import (
    AfterValidator,
    Field,
    StringConstraints,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from db.environment import Environment
from db.fields import CURRENCY_PATTERN, ID, ID_IN_WORDS, ID_MOST_CHARACTERS, ID_PATTERN, MOST_MICROS
from db.section import Section

ABOVE_TARGET = "throttle_above_target"


def _id(value: str) -> str:
    if not ID.fullmatch(value):
        raise PydanticCustomError("string_pattern_mismatch", ID_IN_WORDS)  # pydantic's own patterns know no (?!…)
    return value


def _currency(value: str) -> str:
    if value not in CURRENCIES:
        raise PydanticCustomError("currency_unknown", "no such currency; use an ISO 4217 code such as EUR")
    return value


CURRENCIES = frozenset(currency.code for currency in iso4217.Currency)
"""Today's codes of ISO 4217."""

Id = Annotated[
    str,
    AfterValidator(_id),
    WithJsonSchema({"type": "string", "pattern": f"^{ID_PATTERN}$", "minLength": 1, "maxLength": ID_MOST_CHARACTERS}),
]
Currency = Annotated[str, StringConstraints(pattern=f"^{CURRENCY_PATTERN}$")]
"""Any three capital letters: what others may name. A brand's is a `KnownCurrency`."""
KnownCurrency = Annotated[Currency, AfterValidator(_currency)]
Micros = Annotated[int, Field(ge=0, le=MOST_MICROS)]
Roas = Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)]


NOT_A_PLACE = ("Factory", "localtime", "posixrules")
"""Names in the machine's zone folder that are no time zones."""


def _timezone(value: str) -> str:
    if value not in zoneinfo.available_timezones() or value in NOT_A_PLACE:
        raise ValueError("no such time zone; use an IANA name such as Europe/London")
    return value


TimeZone = Annotated[str, AfterValidator(_timezone)]


def _not_above_target(value: float, info: ValidationInfo) -> float:
    if value > info.data.get("target_roas", value):
        raise PydanticCustomError(
            ABOVE_TARGET, "throttle_roas must not be above target_roas: a brand on target would be throttled"
        )
    return value


THROTTLE_ROAS = 0.8
ThrottleRoas = Annotated[Roas, AfterValidator(_not_above_target)]


def _with_throttle(values: Any) -> Any:
    """Settings with a throttle_roas: where it is left out, it is never above the target."""
    if not isinstance(values, dict) or "throttle_roas" in values:
        return values
    try:
        target = float(values.get("target_roas", math.inf))
    except (TypeError, ValueError):
        return values  # it is refused as it is
    return values | {"throttle_roas": target} if 0 < target < THROTTLE_ROAS else values


class _Targets(Section, frozen=True):
    _throttle = model_validator(mode="before")(_with_throttle)


class PortfolioSettings(_Targets, frozen=True):
    currency: KnownCurrency = "EUR"
    timezone: TimeZone = "UTC"
    target_roas: Roas = 1.0
    throttle_roas: ThrottleRoas = THROTTLE_ROAS
    daily_budget_micros: Micros | None = None
    """Per day in the time zone; null: unlimited."""


class BrandSettings(_Targets, frozen=True):
    currency: KnownCurrency = "EUR"
    """Currency of all its money; cannot change once some has moved."""
    timezone: TimeZone = "UTC"
    """Whose midnight ends its budget day."""
    portfolio_id: Id | None = None
    """The portfolio whose budget it shares; null: none."""
    target_roas: Roas = 1.0
    """Revenue ÷ cost that the brand wants over its wins."""
    throttle_roas: ThrottleRoas = THROTTLE_ROAS
    """Below it the brand's share of auctions falls; at most target_roas."""
    daily_budget_micros: Micros | None = 1_000_000_000_000
    """Per day in the brand's time zone; null: unlimited."""
    strategy_multiplier: Annotated[float, Field(gt=0, le=1e3, allow_inf_nan=False)] = 1.0
    """Moves the brand against other brands, never its own ROAS."""
    exploration: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = 0.02
    """Least share of auctions of a throttled brand, so that it can recover."""
    lambda_floor: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = 0.08
    """λ stays at or above this share of target_roas, whatever the day looks like."""
    max_cost_micros: Annotated[int, Field(ge=1, le=MOST_MICROS)] | None = None
    """No bid with a higher predicted cost per impression wins; null: 20 × the 99.9th percentile of its settled wins."""
    cost_tolerance: Annotated[float, Field(ge=1, le=100, allow_inf_nan=False)] = 1.5
    """A partner's cost counts up to this many times what was predicted."""
    holds_share: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] = 0.25
    """What one partner token may hold of the day's budget and not have shown yet."""
    active: bool = True
    """An inactive brand takes part in nothing."""


class CurrencySettings(Section, frozen=True):
    currency: KnownCurrency = "EUR"
    """Of brands that name none (three capital letters), and of the answers."""


def settings_tag(settings: Mapping[str, Any], scheduled: Any = None) -> str:
    """What tells these settings from others, for the header ETag.

    Args:
        scheduled: a change that is due, (portfolio_id, timezone, time).
    """
    plain = {
        name: value + 0.0 if isinstance(value, float) else value for name, value in settings.items()
    }  # −0.0 is 0.0
    known = [(name, plain[name]) for name in sorted(plain)]
    return hashlib.sha256(repr((known, scheduled and tuple(scheduled))).encode()).hexdigest()[:32]


def in_the_general_currency(values: Any, info: ValidationInfo) -> Any:
    """Validator of the section `new_brand`: adds the currency of brands that name none."""
    general = info.data.get("general", CurrencySettings())
    return {"currency": general.currency} | (values if isinstance(values, dict) else {})


class _NewBrand(Environment):
    general: CurrencySettings = CurrencySettings()
    new_brand: BrandSettings = BrandSettings()
    _currency = field_validator("new_brand", mode="before")(in_the_general_currency)


def new_brand() -> BrandSettings:
    """The settings of brands that an import creates, and of fields that a PUT leaves out (`PACELINE_NEW_BRAND_…`).

    Raises: BadSetting.
    """
    return _NewBrand.load().new_brand
