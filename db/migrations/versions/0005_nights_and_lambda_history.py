"""How each night ended, and which λ was live when."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

UTC = sa.DateTime().with_variant(mysql.DATETIME(fsp=6), "mysql")
SEQUENCE = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
LONG_TEXT = sa.Text().with_variant(mysql.MEDIUMTEXT(), "mysql")
OPTIONS: dict[str, Any] = {"mysql_engine": "InnoDB", "mysql_charset": "utf8mb4", "mysql_collate": "utf8mb4_bin"}


def _ascii(length: int) -> Any:
    return sa.String(length).with_variant(mysql.VARCHAR(length, charset="ascii", collation="ascii_bin"), "mysql")


def upgrade() -> None:
    op.create_table(
        "nights",
        sa.Column("seq", SEQUENCE, autoincrement=True, nullable=False),
        sa.Column("started_at", UTC, nullable=False),
        sa.Column("finished_at", UTC, nullable=False),
        sa.Column("outcome", _ascii(16), nullable=False),
        sa.Column("version", _ascii(64), nullable=True),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("summary", LONG_TEXT, nullable=False),
        sa.PrimaryKeyConstraint("seq", name="pk_nights"),
        **OPTIONS,
    )
    op.create_table(
        "lambda_history",
        sa.Column("seq", SEQUENCE, autoincrement=True, nullable=False),
        sa.Column("brand_id", _ascii(64), nullable=False),
        sa.Column("at", UTC, nullable=False),
        sa.Column("lambda", sa.Double(), nullable=False),
        sa.Column("kappa", sa.Double(), nullable=True),
        sa.PrimaryKeyConstraint("seq", name="pk_lambda_history"),
        **OPTIONS,
    )
    op.create_index("ix_lambda_history_brand_id_at", "lambda_history", ["brand_id", "at"])
    op.create_index("ix_lambda_history_at", "lambda_history", ["at"])


def downgrade() -> None:
    op.drop_table("lambda_history")
    op.drop_table("nights")
