"""Why a night ends before its time; each text is for whoever started it."""

from __future__ import annotations

from db.errors import UserError


class NothingToLearn(UserError):
    """There is no history with impressions or clicks before the date."""


class AnotherNight(UserError):
    """The lock is held: a night is running on this state folder."""


class ChampionChanged(UserError):
    """Another version was made live while the night ran: the challenger was not compared with that one."""
