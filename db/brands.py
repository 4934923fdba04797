"""The settings of brands and portfolios: one model for the API's bodies, the defaults and the rows."""

from __future__ import annotations

import zoneinfo
from typing import Annotated, Any

from pydantic import AfterValidator, Field, StringConstraints, ValidationInfo, field_validator

from db.environment import Environment
from db.fields import CURRENCY_PATTERN, ID_PATTERN, MOST_MICROS
from db.section import Section

Id = Annotated[str, StringConstraints(pattern=f"^{ID_PATTERN}$")]
Currency = Annotated[str, StringConstraints(pattern=f"^{CURRENCY_PATTERN}$")]
Micros = Annotated[int, Field(ge=0, le=MOST_MICROS)]
Roas = Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)]


NOT_A_PLACE = ("Factory", "localtime", "posixrules")
"""Names in the machine's zone folder that are no time zones."""


def _timezone(value: str) -> str:
    if value not in zoneinfo.available_timezones() or value in NOT_A_PLACE:
        raise ValueError("no such time zone; use an IANA name such as Europe/London")
    return value


TimeZone = Annotated[str, AfterValidator(_timezone)]


class PortfolioSettings(Section, frozen=True):
    currency: Currency = "EUR"
    timezone: TimeZone = "UTC"
    target_roas: Roas = 1.0
    throttle_roas: Roas = 0.8
    daily_budget_micros: Micros | None = None
    """Per day in the time zone; null: unlimited."""


class BrandSettings(Section, frozen=True):
    currency: Currency = "EUR"
    """Currency of all its money; cannot change once some has moved."""
    timezone: TimeZone = "UTC"
    """Whose midnight ends its budget day."""
    portfolio_id: Id | None = None
    """The portfolio whose budget it shares; null: none."""
    target_roas: Roas = 1.0
    """Revenue ÷ cost that the brand wants over its wins."""
    throttle_roas: Roas = 0.8
    """Below it the brand's share of auctions falls."""
    daily_budget_micros: Micros | None = 1_000_000_000_000
    """Per day in the brand's time zone; null: unlimited."""
    strategy_multiplier: Annotated[float, Field(gt=0, le=1e3, allow_inf_nan=False)] = 1.0
    """Moves the brand against other brands, never its own ROAS."""
    exploration: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = 0.02
    """Least share of auctions of a throttled brand, so that it can recover."""
    active: bool = True
    """An inactive brand takes part in nothing."""


class CurrencySettings(Section, frozen=True):
    currency: Currency = "EUR"
    """Of brands that name none (three capital letters), and of the answers."""


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
