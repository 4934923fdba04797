"""Slack: what a brand may lose on bids below its target; and each win's predicted revenue and its price."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

UTC = sa.DateTime().with_variant(mysql.DATETIME(fsp=6), "mysql")
OPTIONS: dict[str, Any] = {"mysql_engine": "InnoDB", "mysql_charset": "utf8mb4", "mysql_collate": "utf8mb4_bin"}


def _ascii(length: int) -> Any:
    return sa.String(length).with_variant(mysql.VARCHAR(length, charset="ascii", collation="ascii_bin"), "mysql")


def _micros(name: str) -> sa.Column[Any]:
    return sa.Column(name, sa.BigInteger(), nullable=False, server_default=sa.text("0"))


def upgrade() -> None:
    op.create_table(
        "slack_days",
        sa.Column("owner", _ascii(16), nullable=False),
        sa.Column("owner_id", _ascii(64), nullable=False),
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("revenue_micros", sa.BigInteger(), nullable=False),
        sa.Column("cost_micros", sa.BigInteger(), nullable=False),
        sa.Column("pending_micros", sa.BigInteger(), nullable=False),
        sa.Column("leased_micros", sa.BigInteger(), nullable=False),
        sa.Column("updated_at", UTC, nullable=False),
        sa.PrimaryKeyConstraint("owner", "owner_id", "day", name="pk_slack_days"),
        **OPTIONS,
    )
    # Wins from before have no prediction on record: they are never confirmed, and add to no slack.
    for column in (
        sa.Column("price_micros", sa.BigInteger(), nullable=True),
        sa.Column("revenue_share", sa.Double(), nullable=True),
        _micros("revenue_micros"),
        _micros("lack_micros"),
        _micros("portfolio_lack_micros"),
        sa.Column("confirmed", sa.Boolean(), nullable=False, server_default=sa.false()),
    ):
        op.add_column("reservations", column)
    for name in ("slack_micros", "portfolio_slack_micros"):
        op.add_column("leases", _micros(name))


def downgrade() -> None:
    for name in ("portfolio_slack_micros", "slack_micros"):
        op.drop_column("leases", name)
    for name in (
        "confirmed", "portfolio_lack_micros", "lack_micros", "revenue_micros", "revenue_share", "price_micros",
    ):  # fmt: skip
        op.drop_column("reservations", name)
    op.drop_table("slack_days")
