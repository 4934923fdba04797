"""Every invariant of the money, recomputed by SQL from the tables alone (`audit.py` is the command).

It shares no rule with the code that moves the money. Each check is a query that returns the rows that break it.
"""

from __future__ import annotations

from typing import NamedTuple

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from db.session import Database

SHOWN = 20
"""Most rows that are named for each check."""

OVERFLOWS = ("integer overflow", "BIGINT value is out of range")
"""How SQLite and MySQL report that a sum overflows."""

_OUT = "(leased_micros + reserved_micros + settled_micros)"
_DAY = "owner, owner_id, day"
_DELTAS = "budget_delta_micros, leased_delta_micros, reserved_delta_micros, settled_delta_micros"
_LINES = f"""
    SELECT 'brand' AS owner, brand_id AS owner_id, day, {_DELTAS} FROM ledger_journal WHERE brand_id IS NOT NULL
    UNION ALL
    SELECT 'portfolio', portfolio_id, day, {_DELTAS} FROM ledger_journal WHERE portfolio_id IS NOT NULL
"""
_LEASES = """
    SELECT 'brand' AS owner, brand_id AS owner_id, day, leased_micros FROM leases
    UNION ALL
    SELECT 'portfolio', portfolio_id, day, leased_micros FROM leases WHERE portfolio_id IS NOT NULL
"""
_HOLDS = """
    SELECT 'brand' AS owner, brand_id AS owner_id, day, held_micros FROM reservations
    UNION ALL
    SELECT 'portfolio', portfolio_id, day, held_micros FROM reservations WHERE portfolio_id IS NOT NULL
"""
# What each event cost in the end. Of a conversion: the newest cost that was stated, nothing if it is rejected, on the
# day of its first `conversion` event.
_COSTS = """
    SELECT brand_id, portfolio_id, day, reservation_id, COALESCE(cost_micros, 0) AS cost
    FROM events WHERE type NOT IN ('conversion', 'conversion_update')
    UNION ALL
    SELECT brand_id,
        MAX(CASE WHEN as_anchor = 1 THEN portfolio_id END),
        MAX(CASE WHEN as_anchor = 1 THEN day END),
        MAX(CASE WHEN as_anchor = 1 THEN reservation_id END),
        CASE WHEN MAX(CASE WHEN as_status = 1 THEN status END) = 'rejected' THEN 0
            ELSE COALESCE(MAX(CASE WHEN as_cost = 1 THEN cost_micros END), 0) END
    FROM (
        SELECT brand_id, partner_id, conversion_id, portfolio_id, day, reservation_id, status, cost_micros,
            ROW_NUMBER() OVER (
                PARTITION BY brand_id, partner_id, conversion_id
                ORDER BY CASE WHEN type = 'conversion' THEN 0 ELSE 1 END, occurred_at, event_id
            ) AS as_anchor,
            ROW_NUMBER() OVER (
                PARTITION BY brand_id, partner_id, conversion_id
                ORDER BY CASE WHEN status IS NULL THEN 1 ELSE 0 END, occurred_at DESC, event_id DESC
            ) AS as_status,
            ROW_NUMBER() OVER (
                PARTITION BY brand_id, partner_id, conversion_id
                ORDER BY CASE WHEN cost_micros IS NULL THEN 1 ELSE 0 END, occurred_at DESC, event_id DESC
            ) AS as_cost
        FROM events WHERE type IN ('conversion', 'conversion_update')
    ) AS ranked GROUP BY brand_id, partner_id, conversion_id
"""
_SLACK_LEASES = """
    SELECT 'brand' AS owner, brand_id AS owner_id, day, slack_micros FROM leases
    UNION ALL
    SELECT 'portfolio', portfolio_id, day, portfolio_slack_micros FROM leases WHERE portfolio_id IS NOT NULL
"""
_WINS = """
    SELECT 'brand' AS owner, brand_id AS owner_id, day, confirmed, revenue_micros, lack_micros,
        CASE WHEN pricing_model = 'cpm' AND settled_micros > amount_micros THEN settled_micros
            ELSE amount_micros END AS counted_micros
    FROM reservations
    UNION ALL
    SELECT 'portfolio', portfolio_id, day, confirmed, revenue_micros, portfolio_lack_micros,
        CASE WHEN pricing_model = 'cpm' AND settled_micros > amount_micros THEN settled_micros
            ELSE amount_micros END
    FROM reservations WHERE portfolio_id IS NOT NULL
"""
_COSTS_BY_OWNER = f"""
    SELECT 'brand' AS owner, brand_id AS owner_id, day, cost FROM ({_COSTS}) AS of_brands
    UNION ALL
    SELECT 'portfolio', portfolio_id, day, cost FROM ({_COSTS}) AS of_portfolios WHERE portfolio_id IS NOT NULL
"""


class Invariant(NamedTuple):
    promise: str
    query: str  # selects the rows that break it, with the columns to show


def _same(
    promise: str, column: str, sums: str, value: str, condition: str = "", days: str = "budget_days"
) -> Invariant:
    """A column of every budget day equals a sum over other rows. A sum without a budget day breaks it, too."""
    return Invariant(
        promise,
        f"""
        SELECT {_DAY}, SUM(in_row) AS in_row, SUM(recomputed) AS recomputed FROM (
            SELECT {_DAY}, {column} AS in_row, 0 AS recomputed FROM {days}
            UNION ALL
            SELECT {_DAY}, 0, {value} FROM ({sums}) AS parts {condition}
        ) AS both_sides GROUP BY {_DAY} HAVING SUM(in_row) <> SUM(recomputed) ORDER BY {_DAY}
        """,
    )


CHECKS = (
    Invariant(
        "nothing is negative, and only an unlimited budget has no number for what is available",
        f"""
        SELECT {_DAY}, budget_micros, available_micros, leased_micros, reserved_micros, settled_micros FROM budget_days
        WHERE available_micros < 0 OR leased_micros < 0 OR reserved_micros < 0 OR settled_micros < 0
           OR budget_micros < 0 OR (budget_micros IS NULL) <> (available_micros IS NULL) ORDER BY {_DAY}
        """,
    ),
    Invariant(
        "budget = available + leased + reserved + settled − excess",
        f"""
        SELECT {_DAY}, budget_micros, available_micros, leased_micros, reserved_micros, settled_micros FROM budget_days
        WHERE budget_micros IS NOT NULL AND budget_micros <> available_micros + {_OUT}
            - CASE WHEN {_OUT} > budget_micros THEN {_OUT} - budget_micros ELSE 0 END ORDER BY {_DAY}
        """,
    ),
    _same("leased = Σ of what sessions hold", "leased_micros", _LEASES, "leased_micros"),
    _same("leased = Σ of the journal", "leased_micros", _LINES, "leased_delta_micros"),
    _same("reserved = Σ of what open reservations hold", "reserved_micros", _HOLDS, "held_micros"),
    _same("reserved = Σ of the journal", "reserved_micros", _LINES, "reserved_delta_micros"),
    _same("settled = Σ of the journal", "settled_micros", _LINES, "settled_delta_micros"),
    _same("settled = Σ of what the events cost", "settled_micros", _COSTS_BY_OWNER, "cost"),
    _same("budget = Σ of the journal", "COALESCE(budget_micros, 0)", _LINES, "budget_delta_micros"),
    Invariant(
        "a portfolio's day is the sum of its members' days",
        """
        SELECT days.owner_id, days.day, days.leased_micros, days.reserved_micros, days.settled_micros,
            SUM(lines_.leased_delta_micros) AS members_leased, SUM(lines_.reserved_delta_micros) AS members_reserved,
            SUM(lines_.settled_delta_micros) AS members_settled
        FROM budget_days AS days JOIN ledger_journal AS lines_
            ON lines_.portfolio_id = days.owner_id AND lines_.day = days.day AND lines_.brand_id IS NOT NULL
        WHERE days.owner = 'portfolio'
        GROUP BY days.owner_id, days.day, days.leased_micros, days.reserved_micros, days.settled_micros
        HAVING days.leased_micros <> SUM(lines_.leased_delta_micros)
            OR days.reserved_micros <> SUM(lines_.reserved_delta_micros)
            OR days.settled_micros <> SUM(lines_.settled_delta_micros)
        ORDER BY days.owner_id, days.day
        """,
    ),
    Invariant(
        "a lease holds what its session's journal says, and has a session that is not over",
        """
        SELECT brand_id, session_id, day, SUM(in_row) AS in_row, SUM(journal) AS journal, MAX(alive) AS alive FROM (
            SELECT held.brand_id, held.session_id, held.day, held.leased_micros AS in_row, 0 AS journal,
                CASE WHEN known.status IN ('open', 'lapsed') THEN 1 ELSE 0 END AS alive
            FROM leases AS held LEFT JOIN ledger_sessions AS known ON known.session_id = held.session_id
            UNION ALL
            SELECT brand_id, session_id, day, 0, leased_delta_micros, 0 FROM ledger_journal
            WHERE session_id IS NOT NULL AND leased_delta_micros <> 0
        ) AS sides GROUP BY brand_id, session_id, day
        HAVING SUM(in_row) <> SUM(journal) OR SUM(in_row) < 0 OR (SUM(in_row) > 0 AND MAX(alive) = 0)
        ORDER BY brand_id, session_id, day
        """,
    ),
    Invariant(
        "what a lapsed session holds is in quarantine, what an open one holds is not",
        """
        SELECT held.brand_id, held.session_id, held.day, known.status, held.quarantined_until
        FROM leases AS held JOIN ledger_sessions AS known ON known.session_id = held.session_id
        WHERE (known.status = 'lapsed') <> (held.quarantined_until IS NOT NULL)
        ORDER BY held.brand_id, held.session_id
        """,
    ),
    Invariant(
        "an open reservation is due some time, an ended one holds nothing but slack for a late event",
        """
        SELECT brand_id, reservation_id, status, held_micros, due_at, ended_at FROM reservations
        WHERE held_micros < 0 OR held_micros > amount_micros
           OR (status = 'open' AND (due_at IS NULL OR ended_at IS NOT NULL))
           OR (status <> 'open' AND (ended_at IS NULL OR held_micros <> 0))
           OR (due_at IS NOT NULL) <> (status = 'open' OR lack_micros > 0 OR portfolio_lack_micros > 0)
           OR status NOT IN ('open', 'settled', 'expired', 'returned', 'void')
        ORDER BY brand_id, reservation_id
        """,
    ),
    Invariant(
        "a reservation was debited once (void: never) for its brand, portfolio and day, holds what the journal says",
        """
        SELECT held.brand_id, held.reservation_id, held.status, held.amount_micros, held.held_micros,
            lines_.debits, lines_.debited, lines_.journal_holds
        FROM reservations AS held LEFT JOIN (
            SELECT reservation_id, brand_id, COALESCE(portfolio_id, '') AS portfolio_id, day,
                SUM(CASE WHEN kind = 'reserve' THEN 1 ELSE 0 END) AS debits,
                SUM(CASE WHEN kind = 'reserve' THEN reserved_delta_micros ELSE 0 END) AS debited,
                SUM(reserved_delta_micros) AS journal_holds
            FROM ledger_journal WHERE reservation_id IS NOT NULL
            GROUP BY reservation_id, brand_id, COALESCE(portfolio_id, ''), day
        ) AS lines_ ON lines_.reservation_id = held.reservation_id AND lines_.brand_id = held.brand_id
            AND lines_.day = held.day AND lines_.portfolio_id = COALESCE(held.portfolio_id, '')
        WHERE COALESCE(lines_.debits, 0) <> CASE held.status WHEN 'void' THEN 0 ELSE 1 END
            OR COALESCE(lines_.debited, 0) <> CASE held.status WHEN 'void' THEN 0 ELSE held.amount_micros END
            OR COALESCE(lines_.journal_holds, 0) <> held.held_micros
        ORDER BY held.brand_id, held.reservation_id
        """,
    ),
    Invariant(
        "a reservation ends once at most",
        """
        SELECT brand_id, reservation_id, COUNT(*) AS ends FROM ledger_journal
        WHERE kind IN ('expire', 'return') OR (kind IN ('settle', 'late_settle') AND reserved_delta_micros < 0)
        GROUP BY brand_id, reservation_id HAVING COUNT(*) > 1 ORDER BY brand_id, reservation_id
        """,
    ),
    Invariant(
        "a reservation's settled is the sum of the journal, and of what its events cost",
        f"""
        SELECT brand_id, reservation_id, SUM(in_row) AS in_row, SUM(journal) AS journal, SUM(cost) AS cost FROM (
            SELECT brand_id, reservation_id, settled_micros AS in_row, 0 AS journal, 0 AS cost FROM reservations
            UNION ALL
            SELECT brand_id, reservation_id, 0, settled_delta_micros, 0 FROM ledger_journal
            WHERE reservation_id IS NOT NULL
            UNION ALL
            SELECT brand_id, reservation_id, 0, 0, cost FROM ({_COSTS}) AS costs WHERE reservation_id IS NOT NULL
        ) AS sides GROUP BY brand_id, reservation_id
        HAVING SUM(in_row) <> SUM(journal) OR SUM(in_row) <> SUM(cost) ORDER BY brand_id, reservation_id
        """,
    ),
    Invariant(
        "a request is paid for once, whatever it is repeated with",
        """
        SELECT sub, request_id, COUNT(DISTINCT award_id) AS awards, MIN(brand_id) AS brand_id FROM reservations
        WHERE award_id <> '' AND status <> 'void'
        GROUP BY sub, request_id HAVING COUNT(DISTINCT award_id) > 1 OR COUNT(*) > COUNT(DISTINCT brand_id)
        ORDER BY sub, request_id
        """,
    ),
    Invariant(
        "no slack is negative, and only unconfirmed wins that may still be shown have drawn some",
        """
        SELECT owner_id AS brand_id, day, NULL AS reservation_id, revenue_micros, cost_micros, pending_micros,
            leased_micros
        FROM slack_days
        WHERE revenue_micros < 0 OR cost_micros < 0 OR pending_micros < 0 OR leased_micros < 0
        UNION ALL
        SELECT brand_id, day, reservation_id, revenue_micros, lack_micros, portfolio_lack_micros, 0 FROM reservations
        WHERE lack_micros < 0 OR portfolio_lack_micros < 0 OR revenue_micros < 0
            OR (lack_micros + portfolio_lack_micros > 0
                AND (confirmed OR status NOT IN ('open', 'settled', 'expired')))
            OR (confirmed AND status = 'void')
        UNION ALL
        SELECT brand_id, day, NULL, session_id, slack_micros, portfolio_slack_micros, 0 FROM leases
        WHERE slack_micros < 0 OR portfolio_slack_micros < 0
        ORDER BY 1, 2
        """,
    ),
    _same(
        "slack: revenue = Σ of what confirmed wins were predicted to earn",
        "revenue_micros",
        _WINS,
        "revenue_micros",
        "WHERE confirmed",
        "slack_days",
    ),
    _same("slack: cost = Σ of confirmed wins", "cost_micros", _WINS, "counted_micros", "WHERE confirmed", "slack_days"),
    _same(
        "slack: pending = Σ of what unconfirmed wins have drawn",
        "pending_micros",
        _WINS,
        "lack_micros",
        "",
        "slack_days",
    ),
    _same("slack: leased = Σ of what sessions hold", "leased_micros", _SLACK_LEASES, "slack_micros", "", "slack_days"),
    Invariant(
        "a win is confirmed only if an event has named it",
        """
        SELECT held.brand_id, held.reservation_id, held.status, held.confirmed, COUNT(named.seq) AS events
        FROM reservations AS held LEFT JOIN events AS named ON named.reservation_id = held.reservation_id
        WHERE held.status <> 'void'
        GROUP BY held.brand_id, held.reservation_id, held.status, held.confirmed
        HAVING held.confirmed AND COUNT(named.seq) = 0
        ORDER BY held.brand_id, held.reservation_id
        """,
    ),
    Invariant(
        "every impression and click shows in the performance once",
        """
        SELECT brand_id, SUM(shown_impressions) AS shown_impressions, SUM(impressions) AS impressions,
            SUM(shown_clicks) AS shown_clicks, SUM(clicks) AS clicks
        FROM (
            SELECT brand_id, impressions AS shown_impressions, 0 AS impressions, clicks AS shown_clicks, 0 AS clicks
            FROM performance_hourly WHERE kind = 'event'
            UNION ALL
            SELECT brand_id, 0, CASE WHEN type = 'impression' THEN 1 ELSE 0 END,
                0, CASE WHEN type = 'click' THEN 1 ELSE 0 END
            FROM events
        ) AS sides GROUP BY brand_id
        HAVING SUM(shown_impressions) <> SUM(impressions) OR SUM(shown_clicks) <> SUM(clicks) ORDER BY brand_id
        """,
    ),
    Invariant(
        "no epoch writes after a newer one",
        """
        SELECT old.shard, old.epoch, old.last_seq, newer.epoch AS newer_epoch, newer.first_seq
        FROM (SELECT shard, epoch, MAX(seq) AS last_seq FROM ledger_journal GROUP BY shard, epoch) AS old
        JOIN (SELECT shard, epoch, MIN(seq) AS first_seq FROM ledger_journal GROUP BY shard, epoch) AS newer
            ON newer.shard = old.shard AND newer.epoch > old.epoch AND newer.first_seq < old.last_seq
        ORDER BY old.shard, old.epoch
        """,
    ),
)


async def audit(database: Database) -> list[str]:
    """A line for each row that breaks an invariant, at most SHOWN for each; empty if all hold."""
    problems: list[str] = []
    async with database.read() as connection:
        for check in CHECKS:
            try:
                rows = (await connection.execute(text(f"{check.query} LIMIT {SHOWN}"))).mappings().all()
            except DBAPIError as error:
                if not any(sign in str(error.orig) for sign in OVERFLOWS):
                    raise
                problems.append(f"{check.promise}: cannot be checked, a sum overflows the database's integers")
                continue
            for row in rows:
                named = ", ".join(f"{name}={value}" for name, value in row.items())
                problems.append(f"{check.promise}: {named}")
    return problems
