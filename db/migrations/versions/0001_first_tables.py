"""first tables

Revision: 0001
After:
"""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

# Spelled out here, not taken from db.tables: a migration must not change when the tables do.
UTC = sa.DateTime().with_variant(mysql.DATETIME(fsp=6), "mysql")
LONG_TEXT = sa.Text().with_variant(mysql.MEDIUMTEXT(), "mysql")
SEQUENCE = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
OPTIONS: dict[str, Any] = {"mysql_engine": "InnoDB", "mysql_charset": "utf8mb4", "mysql_collate": "utf8mb4_bin"}

PERFORMANCE = """
CREATE VIEW performance AS
SELECT
    kind, source, period, hour, day, brand_id, partner_id, slot_id, device_type, creative_type, placement_score,
    impressions, clicks, conversions, cost_micros, revenue_micros, pending_revenue_micros
FROM (
    SELECT
        kind, source, period, hour, day, brand_id, partner_id, slot_id, device_type, creative_type, placement_score,
        impressions, clicks, conversions, cost_micros, revenue_micros, pending_revenue_micros, precedence,
        MIN(precedence) OVER (
            PARTITION BY brand_id, day, partner_id, slot_id, device_type, creative_type
        ) AS least_precedence
    FROM performance_hourly
) AS ranked
WHERE precedence = least_precedence
"""
FEATURE_STORE = """
CREATE VIEW feature_store AS
SELECT
    day, brand_id, partner_id, slot_id, device_type, creative_type,
    SUM(impressions) AS impressions,
    SUM(clicks) AS clicks,
    SUM(conversions) AS conversions,
    SUM(cost_micros) AS cost_micros,
    SUM(revenue_micros) AS revenue_micros,
    SUM(pending_revenue_micros) AS pending_revenue_micros,
    CASE WHEN SUM(cost_micros) > 0 THEN
        SUM(CASE WHEN cost_micros IS NOT NULL THEN revenue_micros ELSE 0 END) / (SUM(cost_micros) + 0e0)
    END AS roas
FROM performance
GROUP BY day, brand_id, partner_id, slot_id, device_type, creative_type
"""


def ascii_(length: int) -> sa.types.TypeEngine[str]:
    return sa.String(length).with_variant(mysql.VARCHAR(length, charset="ascii", collation="ascii_bin"), "mysql")


def upgrade() -> None:
    op.create_table(
        "brands",
        sa.Column("brand_id", ascii_(64), nullable=False),
        sa.Column("currency", ascii_(3), nullable=False),
        sa.Column("timezone", ascii_(64), nullable=False),
        sa.Column("portfolio_id", ascii_(64), nullable=True),
        sa.Column("target_roas", sa.Double(), nullable=False),
        sa.Column("throttle_roas", sa.Double(), nullable=False),
        sa.Column("daily_budget_micros", sa.BigInteger(), nullable=True),
        sa.Column("strategy_multiplier", sa.Double(), nullable=False),
        sa.Column("exploration", sa.Double(), nullable=False),
        sa.Column("active", sa.Boolean(), nullable=False),
        sa.Column("next_portfolio_id", ascii_(64), nullable=True),
        sa.Column("next_timezone", ascii_(64), nullable=True),
        sa.Column("next_from", UTC, nullable=True),
        sa.Column("created_at", UTC, nullable=False),
        sa.Column("updated_at", UTC, nullable=False),
        sa.PrimaryKeyConstraint("brand_id", name=op.f("pk_brands")),
        **OPTIONS,
    )
    op.create_index(op.f("ix_brands_portfolio_id"), "brands", ["portfolio_id"], unique=False)
    op.create_table(
        "budget_days",
        sa.Column("owner", ascii_(16), nullable=False),
        sa.Column("owner_id", ascii_(64), nullable=False),
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("budget_micros", sa.BigInteger(), nullable=True),
        sa.Column("available_micros", sa.BigInteger(), nullable=True),
        sa.Column("leased_micros", sa.BigInteger(), nullable=False),
        sa.Column("reserved_micros", sa.BigInteger(), nullable=False),
        sa.Column("settled_micros", sa.BigInteger(), nullable=False),
        sa.Column("updated_at", UTC, nullable=False),
        sa.PrimaryKeyConstraint("owner", "owner_id", "day", name=op.f("pk_budget_days")),
        **OPTIONS,
    )
    op.create_table(
        "events",
        sa.Column("seq", SEQUENCE, autoincrement=True, nullable=False),
        sa.Column("brand_id", ascii_(64), nullable=False),
        sa.Column("partner_id", ascii_(64), nullable=False),
        sa.Column("event_id", ascii_(64), nullable=False),
        sa.Column("content_hash", ascii_(64), nullable=False),
        sa.Column("type", ascii_(20), nullable=False),
        sa.Column("occurred_at", UTC, nullable=False),
        sa.Column("received_at", UTC, nullable=False),
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("portfolio_id", ascii_(64), nullable=True),
        sa.Column("slot_id", ascii_(64), nullable=True),
        sa.Column("device_type", ascii_(64), nullable=True),
        sa.Column("creative_type", ascii_(64), nullable=True),
        sa.Column("placement_score", sa.Double(), nullable=True),
        sa.Column("reservation_id", ascii_(64), nullable=True),
        sa.Column("click_id", ascii_(64), nullable=True),
        sa.Column("conversion_id", ascii_(64), nullable=True),
        sa.Column("status", ascii_(16), nullable=True),
        sa.Column("period", ascii_(16), nullable=True),
        sa.Column("impressions", sa.BigInteger(), nullable=False),
        sa.Column("clicks", sa.BigInteger(), nullable=False),
        sa.Column("conversions", sa.BigInteger(), nullable=False),
        sa.Column("cost_micros", sa.BigInteger(), nullable=True),
        sa.Column("revenue_micros", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_events")),
        sa.UniqueConstraint("brand_id", "partner_id", "event_id", name=op.f("uq_events_brand_id_partner_id_event_id")),
        **OPTIONS,
    )
    op.create_index("ix_events_brand_id_click_id", "events", ["brand_id", "click_id"], unique=False)
    op.create_index("ix_events_brand_id_conversion_id", "events", ["brand_id", "conversion_id"], unique=False)
    op.create_index("ix_events_reservation_id", "events", ["reservation_id"], unique=False)
    op.create_table(
        "imports",
        sa.Column("source", ascii_(128), nullable=False),
        sa.Column("sha256", ascii_(64), nullable=False),
        sa.Column("rows", sa.BigInteger(), nullable=False),
        sa.Column("rejected", sa.BigInteger(), nullable=False),
        sa.Column("simulated", sa.Boolean(), nullable=False),
        sa.Column("imported_at", UTC, nullable=False),
        sa.PrimaryKeyConstraint("source", name=op.f("pk_imports")),
        **OPTIONS,
    )
    op.create_table(
        "lambda_fits",
        sa.Column("seq", SEQUENCE, autoincrement=True, nullable=False),
        sa.Column("brand_id", ascii_(64), nullable=False),
        sa.Column("model_version", ascii_(64), nullable=False),
        sa.Column("kappa", sa.Double(), nullable=False),
        sa.Column("mu_brand", sa.Double(), nullable=False),
        sa.Column("mu_portfolio", sa.Double(), nullable=False),
        sa.Column("nu_brand", sa.Double(), nullable=False),
        sa.Column("nu_portfolio", sa.Double(), nullable=False),
        sa.Column("opportunities", sa.BigInteger(), nullable=False),
        sa.Column("fitted_at", UTC, nullable=False),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_lambda_fits")),
        **OPTIONS,
    )
    op.create_index("ix_lambda_fits_brand_id_seq", "lambda_fits", ["brand_id", "seq"], unique=False)
    op.create_table(
        "ledger_epochs",
        sa.Column("shard", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("taken_at", UTC, nullable=False),
        sa.PrimaryKeyConstraint("shard", name=op.f("pk_ledger_epochs")),
        **OPTIONS,
    )
    op.create_table(
        "ledger_journal",
        sa.Column("seq", SEQUENCE, autoincrement=True, nullable=False),
        sa.Column("shard", sa.Integer(), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("at", UTC, nullable=False),
        sa.Column("kind", ascii_(16), nullable=False),
        sa.Column("brand_id", ascii_(64), nullable=True),
        sa.Column("portfolio_id", ascii_(64), nullable=True),
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("reservation_id", ascii_(64), nullable=True),
        sa.Column("budget_delta_micros", sa.BigInteger(), nullable=False),
        sa.Column("reserved_delta_micros", sa.BigInteger(), nullable=False),
        sa.Column("settled_delta_micros", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_ledger_journal")),
        **OPTIONS,
    )
    op.create_index("ix_ledger_journal_brand_id_day", "ledger_journal", ["brand_id", "day"], unique=False)
    op.create_index("ix_ledger_journal_portfolio_id_day", "ledger_journal", ["portfolio_id", "day"], unique=False)
    op.create_index("ix_ledger_journal_reservation_id", "ledger_journal", ["reservation_id"], unique=False)
    op.create_table(
        "model_activations",
        sa.Column("seq", SEQUENCE, autoincrement=True, nullable=False),
        sa.Column("version", ascii_(64), nullable=False),
        sa.Column("activated_at", UTC, nullable=False),
        sa.Column("reason", ascii_(64), nullable=False),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_model_activations")),
        **OPTIONS,
    )
    op.create_table(
        "model_versions",
        sa.Column("version", ascii_(64), nullable=False),
        sa.Column("parent", ascii_(64), nullable=True),
        sa.Column("engine", ascii_(16), nullable=False),
        sa.Column("trained_through", sa.Date(), nullable=False),
        sa.Column("status", ascii_(16), nullable=False),
        sa.Column("metrics", LONG_TEXT, nullable=False),
        sa.Column("manifest", LONG_TEXT, nullable=False),
        sa.Column("simulated", sa.Boolean(), nullable=False),
        sa.Column("created_at", UTC, nullable=False),
        sa.PrimaryKeyConstraint("version", name=op.f("pk_model_versions")),
        **OPTIONS,
    )
    op.create_table(
        "performance_hourly",
        sa.Column("key_hash", ascii_(64), nullable=False),
        sa.Column("kind", ascii_(16), nullable=False),
        sa.Column("precedence", sa.SmallInteger(), nullable=False),
        sa.Column("source", ascii_(128), nullable=False),
        sa.Column("period", ascii_(16), nullable=False),
        sa.Column("hour", UTC, nullable=False),
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("brand_id", ascii_(64), nullable=False),
        sa.Column("partner_id", ascii_(64), nullable=False),
        sa.Column("slot_id", ascii_(64), nullable=False),
        sa.Column("device_type", ascii_(64), nullable=False),
        sa.Column("creative_type", ascii_(64), nullable=False),
        sa.Column("placement_score", sa.Double(), nullable=True),
        sa.Column("impressions", sa.BigInteger(), nullable=False),
        sa.Column("clicks", sa.BigInteger(), nullable=False),
        sa.Column("conversions", sa.BigInteger(), nullable=False),
        sa.Column("cost_micros", sa.BigInteger(), nullable=True),
        sa.Column("revenue_micros", sa.BigInteger(), nullable=False),
        sa.Column("pending_revenue_micros", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("key_hash", name=op.f("pk_performance_hourly")),
        **OPTIONS,
    )
    op.create_index("ix_performance_hourly_brand_id_day", "performance_hourly", ["brand_id", "day"], unique=False)
    op.create_index("ix_performance_hourly_day", "performance_hourly", ["day"], unique=False)
    op.create_table(
        "portfolios",
        sa.Column("portfolio_id", ascii_(64), nullable=False),
        sa.Column("currency", ascii_(3), nullable=False),
        sa.Column("timezone", ascii_(64), nullable=False),
        sa.Column("target_roas", sa.Double(), nullable=False),
        sa.Column("throttle_roas", sa.Double(), nullable=False),
        sa.Column("daily_budget_micros", sa.BigInteger(), nullable=True),
        sa.Column("created_at", UTC, nullable=False),
        sa.Column("updated_at", UTC, nullable=False),
        sa.PrimaryKeyConstraint("portfolio_id", name=op.f("pk_portfolios")),
        **OPTIONS,
    )
    op.create_table(
        "reservations",
        sa.Column("reservation_id", ascii_(64), nullable=False),
        sa.Column("sub", ascii_(255), nullable=False),
        sa.Column("request_id", ascii_(64), nullable=False),
        sa.Column("request_hash", ascii_(64), nullable=False),
        sa.Column("bid_id", ascii_(64), nullable=False),
        sa.Column("brand_id", ascii_(64), nullable=False),
        sa.Column("portfolio_id", ascii_(64), nullable=True),
        sa.Column("partner_id", ascii_(64), nullable=False),
        sa.Column("slot_id", ascii_(64), nullable=False),
        sa.Column("device_type", ascii_(64), nullable=False),
        sa.Column("creative_type", ascii_(64), nullable=False),
        sa.Column("placement_score", sa.Double(), nullable=True),
        sa.Column("pricing_model", ascii_(16), nullable=False),
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("amount_micros", sa.BigInteger(), nullable=False),
        sa.Column("held_micros", sa.BigInteger(), nullable=False),
        sa.Column("settled_micros", sa.BigInteger(), nullable=False),
        sa.Column("status", ascii_(16), nullable=False),
        sa.Column("created_at", UTC, nullable=False),
        sa.Column("expires_at", UTC, nullable=False),
        sa.Column("due_at", UTC, nullable=True),
        sa.Column("ended_at", UTC, nullable=True),
        sa.Column("confirmed", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("reservation_id", name=op.f("pk_reservations")),
        sa.UniqueConstraint("sub", "request_id", "brand_id", name=op.f("uq_reservations_sub_request_id_brand_id")),
        **OPTIONS,
    )
    op.create_index("ix_reservations_brand_id_day", "reservations", ["brand_id", "day"], unique=False)
    op.create_index("ix_reservations_due_at", "reservations", ["due_at"], unique=False)
    op.create_table(
        "score_log",
        sa.Column("seq", SEQUENCE, autoincrement=True, nullable=False),
        sa.Column("at", UTC, nullable=False),
        sa.Column("request_id", ascii_(64), nullable=False),
        sa.Column("bid_id", ascii_(64), nullable=False),
        sa.Column("brand_id", ascii_(64), nullable=False),
        sa.Column("partner_id", ascii_(64), nullable=False),
        sa.Column("slot_id", ascii_(64), nullable=False),
        sa.Column("pricing_model", ascii_(16), nullable=False),
        sa.Column("predicted_revenue_micros", sa.Double(), nullable=False),
        sa.Column("predicted_cost_micros", sa.Double(), nullable=False),
        sa.Column("lambda", sa.Double(), nullable=False),
        sa.Column("score", sa.Double(), nullable=False),
        sa.Column("status", ascii_(16), nullable=False),
        sa.Column("weight", sa.Double(), nullable=False),
        sa.Column("model_version", ascii_(64), nullable=False),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_score_log")),
        **OPTIONS,
    )
    op.create_index("ix_score_log_at", "score_log", ["at"], unique=False)
    op.create_index("ix_score_log_brand_id_at", "score_log", ["brand_id", "at"], unique=False)
    op.execute(PERFORMANCE)
    op.execute(FEATURE_STORE)


def downgrade() -> None:
    op.execute("DROP VIEW feature_store")
    op.execute("DROP VIEW performance")
    op.drop_index("ix_score_log_brand_id_at", table_name="score_log")
    op.drop_index("ix_score_log_at", table_name="score_log")
    op.drop_table("score_log")
    op.drop_index("ix_reservations_due_at", table_name="reservations")
    op.drop_index("ix_reservations_brand_id_day", table_name="reservations")
    op.drop_table("reservations")
    op.drop_table("portfolios")
    op.drop_index("ix_performance_hourly_day", table_name="performance_hourly")
    op.drop_index("ix_performance_hourly_brand_id_day", table_name="performance_hourly")
    op.drop_table("performance_hourly")
    op.drop_table("model_versions")
    op.drop_table("model_activations")
    op.drop_index("ix_ledger_journal_reservation_id", table_name="ledger_journal")
    op.drop_index("ix_ledger_journal_portfolio_id_day", table_name="ledger_journal")
    op.drop_index("ix_ledger_journal_brand_id_day", table_name="ledger_journal")
    op.drop_table("ledger_journal")
    op.drop_table("ledger_epochs")
    op.drop_index("ix_lambda_fits_brand_id_seq", table_name="lambda_fits")
    op.drop_table("lambda_fits")
    op.drop_table("imports")
    op.drop_index("ix_events_reservation_id", table_name="events")
    op.drop_index("ix_events_brand_id_conversion_id", table_name="events")
    op.drop_index("ix_events_brand_id_click_id", table_name="events")
    op.drop_table("events")
    op.drop_table("budget_days")
    op.drop_index(op.f("ix_brands_portfolio_id"), table_name="brands")
    op.drop_table("brands")
