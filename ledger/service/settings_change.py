"""Applies a PUT or PATCH to the settings that a brand or portfolio has, inside the transaction that writes them."""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import ValidationError

from db.brands import BrandSettings, PortfolioSettings, settings_tag
from ledger.domain.brand import Brand, Portfolio, Scheduled
from ledger.domain.errors import NotFound, PreconditionFailed, SettingsInvalid
from ledger.domain.messages import Change

Settings = TypeVar("Settings", BrandSettings, PortfolioSettings)

BUDGET, TARGET, THROTTLE = "daily_budget_micros", "target_roas", "throttle_roas"
BUDGET_LEFT_OUT = (
    f"/{BUDGET}",
    "it has a budget, and a PUT without one would replace it by the default: give it, or use PATCH to change the rest",
    "missing",
)


def brand_after(change: Change, brand_id: str, known: Brand | None) -> BrandSettings:
    """A brand's settings after a change, with the portfolio and the time zone that it will have in the end.

    A change of these that is scheduled already stays, unless another is asked for: not by a PATCH that does not name
    them, nor by what GET has answered, which has the present ones beside the scheduled.

    Args:
        known: as it is now; None: it does not exist.

    Raises:
        NotFound: there is nothing to PATCH.
        PreconditionFailed: it is not what the caller has seen.
        SettingsInvalid: the result is not allowed.
    """
    if known is None:
        return _after(change, "brand", brand_id, BrandSettings(), None, None)
    settings, scheduled = known.settings, known.scheduled
    after = _after(change, "brand", brand_id, settings, settings, scheduled)
    if scheduled is None:
        return after
    coming = {"portfolio_id": scheduled.portfolio_id, "timezone": scheduled.timezone}

    def is_left(name: str) -> bool:
        if name not in change.given:
            return change.defaults is None
        return change.has_seen_schedule and change.given[name] == getattr(settings, name)

    return after.model_copy(update={name: value for name, value in coming.items() if is_left(name)})


def portfolio_after(change: Change, portfolio_id: str, known: Portfolio | None) -> PortfolioSettings:
    """A portfolio's settings after a change; as `brand_after`."""
    settings = None if known is None else known.settings
    return _after(change, "portfolio", portfolio_id, settings or PortfolioSettings(), settings, None)


def put_defaults(change: Change) -> dict[str, Any]:
    """What a PUT leaves out: a throttle_roas that is left out is never above the target."""
    defaults, target = dict(change.defaults or {}), change.given.get(TARGET)
    if isinstance(target, int | float) and 0 < target < defaults[THROTTLE]:
        defaults[THROTTLE] = target
    return defaults


def _after(
    change: Change, kind: str, id_: str, base: Settings, known: Settings | None, scheduled: Scheduled | None
) -> Settings:
    wanted = (base.model_dump() if change.defaults is None else put_defaults(change)) | change.given
    after, mistakes = _checked(wanted, base)
    if known is not None:
        mistakes = [one for one in mistakes if not _was_so(one[0].split("/")[1], wanted, known)]
        has_budget, is_put = known.daily_budget_micros is not None, change.defaults is not None
        if not mistakes and has_budget and is_put and BUDGET not in change.given:
            mistakes = [BUDGET_LEFT_OUT]
    if mistakes:
        raise SettingsInvalid(tuple(mistakes))
    if known is None and change.defaults is None:
        raise NotFound(kind, id_)
    _check_preconditions(change, kind, id_, known, scheduled)
    return after


def _checked(wanted: dict[str, Any], base: Settings) -> tuple[Settings, list[tuple[str, str, str]]]:
    """(the settings, what is not allowed of them: pointer, message, code)."""
    try:
        return type(base).model_validate(wanted, strict=True), []
    except ValidationError as error:
        mistakes = [
            ("".join(f"/{part}" for part in item["loc"]), item["msg"], item["type"])
            for item in error.errors(include_url=False, include_context=False, include_input=False)
        ]
        # Taken if all the mistakes are of old: then only the type of a whole number may be wrong.
        kept: dict[str, Any] = {
            name: float(value) if isinstance(getattr(base, name), float) and isinstance(value, int) else value
            for name, value in wanted.items()
            if name in type(base).model_fields
        }
        return type(base).model_construct(**kept), mistakes


def _was_so(name: str, wanted: dict[str, Any], known: BrandSettings | PortfolioSettings) -> bool:
    """Whether it has been like that since before there was a rule against it: who changes the rest need not mend it."""
    return all(
        wanted[one] == getattr(known, one, None) for one in ((THROTTLE, TARGET) if name == THROTTLE else (name,))
    )


def _check_preconditions(
    change: Change, kind: str, id_: str, known: BrandSettings | PortfolioSettings | None, scheduled: Scheduled | None
) -> None:
    tag = None if known is None else settings_tag(known.model_dump(), scheduled)
    if change.if_match and (tag is None or not {"*", tag} & set(change.if_match)):
        why = "does not exist" if tag is None else "has changed since you read it; GET it and try again"
        raise PreconditionFailed(kind, id_, f"If-Match: it {why}")
    if tag is not None and {"*", tag} & set(change.if_none_match):
        why = "exists already" if "*" in change.if_none_match else "has not changed"
        raise PreconditionFailed(kind, id_, f"If-None-Match: it {why}")
