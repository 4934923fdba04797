"""Why a nightly run ends early; each text is shown to whoever started it."""

from __future__ import annotations

from db.errors import UserError


class NothingToLearn(UserError):
    """The history before the date has no impressions and no clicks, or there is no history."""


class AnotherNight(UserError):
    """Another nightly run is going on, on this state folder."""


class ChampionChanged(UserError):
    """Another version was made live during the run, so the new one has not been compared with the live one."""
