"""Every table. Ids compare case-sensitively, money is integer micros, times are UTC."""

from __future__ import annotations

import datetime as dt
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Date,
    DateTime,
    Double,
    Index,
    Integer,
    MetaData,
    SmallInteger,
    String,
    Table,
    Text,
    UniqueConstraint,
    false,
    text,
    true,
)
from sqlalchemy.dialects import mysql
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeDecorator

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)


class UtcDateTime(TypeDecorator[dt.datetime]):
    """Aware datetimes in, aware UTC datetimes out, microseconds kept; the column holds UTC without a zone."""

    impl = DateTime
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> Any:
        return dialect.type_descriptor(mysql.DATETIME(fsp=6) if dialect.name == "mysql" else DateTime())

    def process_bind_param(self, value: dt.datetime | None, dialect: Dialect) -> dt.datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"{value!r} has no time zone")
        return value.astimezone(dt.UTC).replace(tzinfo=None)

    def process_result_value(self, value: dt.datetime | None, dialect: Dialect) -> dt.datetime | None:
        return None if value is None else value.replace(tzinfo=dt.UTC)


def _ascii(length: int) -> Any:
    """MySQL's default collation makes AbC equal to abc; ids are compared byte by byte."""
    return String(length).with_variant(mysql.VARCHAR(length, charset="ascii", collation="ascii_bin"), "mysql")


ID = _ascii(64)
WORD = _ascii(16)
HASH = _ascii(64)
MICROS = BigInteger
SEQUENCE = BigInteger().with_variant(Integer, "sqlite")
"""SQLite numbers rows by itself only where the key is an INTEGER."""
LONG_TEXT = Text().with_variant(mysql.MEDIUMTEXT(), "mysql")
OPTIONS: dict[str, Any] = {"mysql_engine": "InnoDB", "mysql_charset": "utf8mb4", "mysql_collate": "utf8mb4_bin"}

brands = Table(
    "brands",
    metadata,
    Column("brand_id", ID, primary_key=True),
    Column("currency", _ascii(3), nullable=False),
    Column("timezone", _ascii(64), nullable=False),
    Column("portfolio_id", ID, nullable=True, index=True),
    Column("target_roas", Double, nullable=False),
    Column("throttle_roas", Double, nullable=False),
    Column("daily_budget_micros", MICROS, nullable=True),
    Column("strategy_multiplier", Double, nullable=False),
    Column("exploration", Double, nullable=False),
    Column("lambda_floor", Double, nullable=False, server_default=text("0.08")),
    Column("max_cost_micros", MICROS, nullable=True),
    Column("cost_tolerance", Double, nullable=False, server_default=text("1.5")),
    Column("holds_share", Double, nullable=False, server_default=text("0.25")),
    Column("active", Boolean, nullable=False),
    # A change of portfolio or time zone, which starts at the brand's next midnight.
    Column("next_portfolio_id", ID, nullable=True),
    Column("next_timezone", _ascii(64), nullable=True),
    Column("next_from", UtcDateTime, nullable=True),
    Column("created_at", UtcDateTime, nullable=False),
    Column("updated_at", UtcDateTime, nullable=False),
    **OPTIONS,
)

portfolios = Table(
    "portfolios",
    metadata,
    Column("portfolio_id", ID, primary_key=True),
    Column("currency", _ascii(3), nullable=False),
    Column("timezone", _ascii(64), nullable=False),
    Column("target_roas", Double, nullable=False),
    Column("throttle_roas", Double, nullable=False),
    Column("daily_budget_micros", MICROS, nullable=True),
    Column("created_at", UtcDateTime, nullable=False),
    Column("updated_at", UtcDateTime, nullable=False),
    **OPTIONS,
)

budget_days = Table(
    "budget_days",
    metadata,
    # owner: 'brand' or 'portfolio'. budget = available + leased + reserved + settled − excess; null budget: unlimited.
    Column("owner", WORD, primary_key=True),
    Column("owner_id", ID, primary_key=True),
    Column("day", Date, primary_key=True),
    Column("budget_micros", MICROS, nullable=True),
    Column("available_micros", MICROS, nullable=True),
    Column("leased_micros", MICROS, nullable=False),
    Column("reserved_micros", MICROS, nullable=False),
    Column("settled_micros", MICROS, nullable=False),
    Column("updated_at", UtcDateTime, nullable=False),
    **OPTIONS,
)

slack_days = Table(
    "slack_days",
    metadata,
    # What may be lost on bids below the target: revenue and cost are of confirmed wins. See `ledger/domain/slack.py`.
    Column("owner", WORD, primary_key=True),
    Column("owner_id", ID, primary_key=True),
    Column("day", Date, primary_key=True),
    Column("revenue_micros", MICROS, nullable=False),
    Column("cost_micros", MICROS, nullable=False),
    Column("pending_micros", MICROS, nullable=False),
    Column("leased_micros", MICROS, nullable=False),
    Column("updated_at", UtcDateTime, nullable=False),
    **OPTIONS,
)

reservations = Table(
    "reservations",
    metadata,
    Column("reservation_id", ID, primary_key=True),
    Column("sub", _ascii(255), nullable=False),
    Column("request_id", ID, nullable=False),
    Column("request_hash", HASH, nullable=False),
    Column("bid_id", ID, nullable=False),
    Column("brand_id", ID, nullable=False),
    Column("portfolio_id", ID, nullable=True),
    Column("partner_id", ID, nullable=False),
    Column("slot_id", ID, nullable=False),
    Column("device_type", ID, nullable=False),
    Column("creative_type", ID, nullable=False),
    Column("placement_score", Double, nullable=True),
    Column("pricing_model", WORD, nullable=False),
    Column("day", Date, nullable=False),
    Column("amount_micros", MICROS, nullable=False),
    Column("held_micros", MICROS, nullable=False),
    Column("settled_micros", MICROS, nullable=False),
    # open → settled (an event with its cost came) | expired | returned (given back by the caller's replica);
    # void: recorded without a hold, because its request was paid for before or its lease was gone
    Column("status", WORD, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("expires_at", UtcDateTime, nullable=False),
    Column("due_at", UtcDateTime, nullable=True),  # when it shrinks or expires next; null once it has ended
    Column("ended_at", UtcDateTime, nullable=True),
    Column("session_id", BigInteger, nullable=True),  # whose lease it was drawn from
    Column("award_id", ID, nullable=False),  # the wins of one answer share it; empty: known from an event alone
    Column("instead_id", ID, nullable=True),  # void, because this one had been recorded for the same request and brand
    # As it was bid and predicted: per 1,000 impressions, click or conversion, or the share of the revenue.
    Column("price_micros", MICROS, nullable=True),
    Column("revenue_share", Double, nullable=True),
    Column("revenue_micros", MICROS, nullable=False, server_default=text("0")),  # predicted
    # Slack that it has drawn and that is pending: until it is confirmed, or cannot be shown any more.
    Column("lack_micros", MICROS, nullable=False, server_default=text("0")),
    Column("portfolio_lack_micros", MICROS, nullable=False, server_default=text("0")),
    Column("confirmed", Boolean, nullable=False, server_default=false()),  # shown, clicked or settled
    Index("ix_reservations_sub_request_id", "sub", "request_id"),
    Index("ix_reservations_due_at", "due_at"),
    Index("ix_reservations_brand_id_day", "brand_id", "day"),
    **OPTIONS,
)

events = Table(
    "events",
    metadata,
    Column("seq", SEQUENCE, primary_key=True, autoincrement=True),
    Column("brand_id", ID, nullable=False),
    Column("partner_id", ID, nullable=False),
    Column("event_id", ID, nullable=False),
    Column("content_hash", HASH, nullable=False),
    Column("type", _ascii(20), nullable=False),
    Column("occurred_at", UtcDateTime, nullable=False),
    Column("received_at", UtcDateTime, nullable=False),
    # Fixed on arrival: the budget day and the portfolio that its cost belongs to.
    Column("day", Date, nullable=False),
    Column("portfolio_id", ID, nullable=True),
    # Null where the event gave none and nothing that it inherits from is known yet; a reservation, where none such is.
    Column("slot_id", ID, nullable=True),
    Column("device_type", ID, nullable=True),
    Column("creative_type", ID, nullable=True),
    Column("placement_score", Double, nullable=True),
    Column("reservation_id", ID, nullable=True),
    Column("click_id", ID, nullable=True),
    Column("conversion_id", ID, nullable=True),
    Column("status", WORD, nullable=True),
    Column("period", WORD, nullable=True),
    Column("impressions", BigInteger, nullable=False),
    Column("clicks", BigInteger, nullable=False),
    Column("conversions", BigInteger, nullable=False),
    Column("cost_micros", MICROS, nullable=True),
    Column("revenue_micros", MICROS, nullable=True),
    UniqueConstraint("brand_id", "partner_id", "event_id"),
    Index("ix_events_brand_id_conversion_id", "brand_id", "conversion_id"),
    Index("ix_events_brand_id_click_id", "brand_id", "click_id"),
    Index("ix_events_brand_id_occurred_at", "brand_id", "occurred_at"),
    Index("ix_events_reservation_id", "reservation_id"),
    **OPTIONS,
)

performance_hourly = Table(
    "performance_hourly",
    metadata,
    # sha256 over (kind, source, period, hour, the ids, placement_score): one row a key whatever is null.
    Column("key_hash", HASH, primary_key=True),
    Column("kind", WORD, nullable=False),  # event | aggregate | import
    Column("precedence", SmallInteger, nullable=False),  # 0 event, 1 aggregate, 2 import: the least counts
    Column("source", _ascii(128), nullable=False),  # of an import; empty otherwise
    Column("period", WORD, nullable=False),  # hour | day; a day's row stands at its first hour
    Column("hour", UtcDateTime, nullable=False),
    Column("day", Date, nullable=False),
    Column("brand_id", ID, nullable=False),
    Column("partner_id", ID, nullable=False),
    Column("slot_id", ID, nullable=False),
    Column("device_type", ID, nullable=False),
    Column("creative_type", ID, nullable=False),
    Column("placement_score", Double, nullable=True),
    Column("impressions", BigInteger, nullable=False),
    Column("clicks", BigInteger, nullable=False),
    Column("conversions", BigInteger, nullable=False),
    Column("cost_micros", MICROS, nullable=True),  # null: not known
    Column("revenue_micros", MICROS, nullable=False),  # approved
    Column("pending_revenue_micros", MICROS, nullable=False),
    Index("ix_performance_hourly_brand_id_day", "brand_id", "day"),
    Index("ix_performance_hourly_day", "day"),
    **OPTIONS,
)

ledger_epochs = Table(
    "ledger_epochs",
    metadata,
    Column("shard", Integer, primary_key=True, autoincrement=False),
    Column("epoch", BigInteger, nullable=False),
    Column("taken_at", UtcDateTime, nullable=False),
    # The layout that the epoch belongs to; all rows say the same.
    Column("shards", Integer, nullable=False, server_default=text("1")),
    Column("decided_at", Double, nullable=False, server_default=text("0")),  # seconds since 1970
    **OPTIONS,
)

ledger_sessions = Table(
    "ledger_sessions",
    metadata,
    # A replica's session with a shard's ledger. open → lapsed (silent: its leases are quarantined until the wins that
    # it may have made have expired) → closed (it holds no lease any more).
    Column("session_id", SEQUENCE, primary_key=True, autoincrement=True),
    Column("shard", Integer, nullable=False),
    Column("secret", HASH, nullable=False),  # hexadecimal; makes and checks its reservation ids
    Column("status", WORD, nullable=False),
    Column("beat", BigInteger, nullable=False),  # number of its newest one
    Column("opened_at", UtcDateTime, nullable=False),
    Column("renewed_at", UtcDateTime, nullable=False),
    Index("ix_ledger_sessions_status", "status"),
    **OPTIONS,
)

leases = Table(
    "leases",
    metadata,
    # A session's lease of a brand's day. The row is deleted when all of it was returned or became holds.
    Column("session_id", BigInteger, primary_key=True, autoincrement=False),
    Column("brand_id", ID, primary_key=True),
    Column("day", Date, primary_key=True),
    Column("portfolio_id", ID, nullable=True),
    Column("leased_micros", MICROS, nullable=False),
    Column("lasting", Boolean, nullable=False),  # holds drawn from it may wait for a conversion
    # Slack of brand and portfolio, lent for the wins that are below a target.
    Column("slack_micros", MICROS, nullable=False, server_default=text("0")),
    Column("portfolio_slack_micros", MICROS, nullable=False, server_default=text("0")),
    Column("quarantined_until", UtcDateTime, nullable=True),  # of a lapsed session
    Index("ix_leases_brand_id_day", "brand_id", "day"),
    Index("ix_leases_portfolio_id_day", "portfolio_id", "day"),
    Index("ix_leases_quarantined_until", "quarantined_until"),
    **OPTIONS,
)

ledger_journal = Table(
    "ledger_journal",
    metadata,
    Column("seq", SEQUENCE, primary_key=True, autoincrement=True),
    Column("shard", Integer, nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("at", UtcDateTime, nullable=False),
    # lend | take_back | reserve | settle | late_settle | shrink | expire | return | budget
    Column("kind", WORD, nullable=False),
    Column("brand_id", ID, nullable=True),  # null: a portfolio's budget moved
    Column("portfolio_id", ID, nullable=True),
    Column("day", Date, nullable=False),
    Column("reservation_id", ID, nullable=True),
    Column("session_id", BigInteger, nullable=True),  # whose lease moved
    Column("budget_delta_micros", MICROS, nullable=False),
    Column("leased_delta_micros", MICROS, nullable=False),
    Column("reserved_delta_micros", MICROS, nullable=False),
    Column("settled_delta_micros", MICROS, nullable=False),
    Index("ix_ledger_journal_brand_id_day", "brand_id", "day"),
    Index("ix_ledger_journal_portfolio_id_day", "portfolio_id", "day"),
    Index("ix_ledger_journal_reservation_id", "reservation_id"),
    **OPTIONS,
)

model_versions = Table(
    "model_versions",
    metadata,
    Column("version", ID, primary_key=True),
    Column("parent", ID, nullable=True),
    Column("engine", WORD, nullable=False),
    Column("trained_through", Date, nullable=False),
    Column("status", WORD, nullable=False),  # published | rejected (lost against the champion)
    Column("metrics", LONG_TEXT, nullable=False),  # JSON
    Column("manifest", LONG_TEXT, nullable=False),  # JSON, signed
    Column("simulated", Boolean, nullable=False),  # learned from the built-in simulated market
    Column("created_at", UtcDateTime, nullable=False),
    **OPTIONS,
)

model_activations = Table(
    "model_activations",
    metadata,
    # The newest row is the live version; the rows answer which model was live when.
    Column("seq", SEQUENCE, primary_key=True, autoincrement=True),
    Column("version", ID, nullable=False),
    Column("activated_at", UtcDateTime, nullable=False),
    Column("reason", _ascii(64), nullable=False),
    **OPTIONS,
)

lambda_fits = Table(
    "lambda_fits",
    metadata,
    Column("seq", SEQUENCE, primary_key=True, autoincrement=True),
    Column("brand_id", ID, nullable=False),
    Column("model_version", ID, nullable=False),
    Column("kappa", Double, nullable=False),
    Column("mu_brand", Double, nullable=False),
    Column("mu_portfolio", Double, nullable=False),
    Column("nu_brand", Double, nullable=False),
    Column("nu_portfolio", Double, nullable=False),
    Column("opportunities", BigInteger, nullable=False),
    Column("fitted_at", UtcDateTime, nullable=False),
    # The limits it was fitted for; null: a fit from before they were kept, no portfolio, no limit.
    Column("target_roas", Double, nullable=True),
    Column("portfolio_target_roas", Double, nullable=True),
    Column("daily_budget_micros", MICROS, nullable=True),
    Column("portfolio_daily_budget_micros", MICROS, nullable=True),
    # How far it is from optimal, as shares; only what has converged is used.
    Column("kkt_residual", Double, nullable=True),
    Column("duality_gap", Double, nullable=True),
    Column("converged", Boolean, nullable=False, server_default=true()),
    Index("ix_lambda_fits_brand_id_seq", "brand_id", "seq"),
    **OPTIONS,
)

lambda_history = Table(
    "lambda_history",
    metadata,
    # The λ that a brand's bids were scored with from then on. Sparse: see `ledger/service/lambda_history.py`.
    Column("seq", SEQUENCE, primary_key=True, autoincrement=True),
    Column("brand_id", ID, nullable=False),
    Column("at", UtcDateTime, nullable=False),
    Column("lambda", Double, nullable=False),  # strategy multiplier × κ, as in score_log
    Column("kappa", Double, nullable=True),  # by day; null: the night's
    Index("ix_lambda_history_brand_id_at", "brand_id", "at"),
    Index("ix_lambda_history_at", "at"),
    **OPTIONS,
)

nights = Table(
    "nights",
    metadata,
    # How each night ended. A night that was killed has no row; the next run finishes it.
    Column("seq", SEQUENCE, primary_key=True, autoincrement=True),
    Column("started_at", UtcDateTime, nullable=False),
    Column("finished_at", UtcDateTime, nullable=False),
    Column("outcome", WORD, nullable=False),  # live | stayed (the champion) | unverified | failed
    Column("version", ID, nullable=True),
    Column("reason", Text, nullable=False),
    Column("summary", LONG_TEXT, nullable=False),  # JSON
    **OPTIONS,
)

score_log = Table(
    "score_log",
    metadata,
    # One row a bid of a sampled request; `weight` requests stand behind each that was kept.
    Column("seq", SEQUENCE, primary_key=True, autoincrement=True),
    Column("at", UtcDateTime, nullable=False),
    Column("request_id", ID, nullable=False),
    Column("bid_id", ID, nullable=False),
    Column("brand_id", ID, nullable=False),
    Column("partner_id", ID, nullable=False),
    Column("slot_id", ID, nullable=False),
    Column("pricing_model", WORD, nullable=False),
    Column("predicted_revenue_micros", Double, nullable=False),
    Column("predicted_cost_micros", Double, nullable=False),
    Column("lambda", Double, nullable=False),
    Column("score", Double, nullable=False),
    Column("status", WORD, nullable=False),
    Column("weight", Double, nullable=False),
    Column("model_version", ID, nullable=False),
    Index("ix_score_log_at", "at"),
    Index("ix_score_log_brand_id_at", "brand_id", "at"),
    **OPTIONS,
)

imports = Table(
    "imports",
    metadata,
    Column("source", _ascii(128), primary_key=True),
    Column("sha256", HASH, nullable=False),
    Column("rows", BigInteger, nullable=False),
    Column("rejected", BigInteger, nullable=False),
    Column("simulated", Boolean, nullable=False),
    Column("imported_at", UtcDateTime, nullable=False),
    **OPTIONS,
)
