"""leases: sessions of replicas, their blocks of budgets, what reservations and journal say of them

Revision: 0004
After: 0003
"""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

UTC = sa.DateTime().with_variant(mysql.DATETIME(fsp=6), "mysql")
SEQUENCE = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
OPTIONS: dict[str, Any] = {"mysql_engine": "InnoDB", "mysql_charset": "utf8mb4", "mysql_collate": "utf8mb4_bin"}


def _ascii(length: int) -> Any:
    return sa.String(length).with_variant(mysql.VARCHAR(length, charset="ascii", collation="ascii_bin"), "mysql")


def upgrade() -> None:
    op.create_table(
        "ledger_sessions",
        sa.Column("session_id", SEQUENCE, autoincrement=True, nullable=False),
        sa.Column("shard", sa.Integer(), nullable=False),
        sa.Column("secret", _ascii(64), nullable=False),
        sa.Column("status", _ascii(16), nullable=False),
        sa.Column("beat", sa.BigInteger(), nullable=False),
        sa.Column("opened_at", UTC, nullable=False),
        sa.Column("renewed_at", UTC, nullable=False),
        sa.PrimaryKeyConstraint("session_id", name="pk_ledger_sessions"),
        **OPTIONS,
    )
    op.create_index("ix_ledger_sessions_status", "ledger_sessions", ["status"])
    op.create_table(
        "leases",
        sa.Column("session_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("brand_id", _ascii(64), nullable=False),
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("portfolio_id", _ascii(64), nullable=True),
        sa.Column("leased_micros", sa.BigInteger(), nullable=False),
        sa.Column("lasting", sa.Boolean(), nullable=False),
        sa.Column("quarantined_until", UTC, nullable=True),
        sa.PrimaryKeyConstraint("session_id", "brand_id", "day", name="pk_leases"),
        **OPTIONS,
    )
    op.create_index("ix_leases_brand_id_day", "leases", ["brand_id", "day"])
    op.create_index("ix_leases_portfolio_id_day", "leases", ["portfolio_id", "day"])
    op.create_index("ix_leases_quarantined_until", "leases", ["quarantined_until"])
    with op.batch_alter_table("reservations") as table:
        table.add_column(sa.Column("session_id", sa.BigInteger(), nullable=True))
        # What was recorded before there were leases is an answer of its own.
        table.add_column(sa.Column("award_id", _ascii(64), nullable=False, server_default="before"))
        table.add_column(sa.Column("instead_id", _ascii(64), nullable=True))
        table.drop_column("confirmed")
        table.drop_constraint("uq_reservations_sub_request_id_brand_id", type_="unique")
    with op.batch_alter_table("reservations") as table:
        table.alter_column("award_id", existing_type=_ascii(64), existing_nullable=False, server_default=None)
    op.create_index("ix_reservations_sub_request_id", "reservations", ["sub", "request_id"])
    with op.batch_alter_table("ledger_journal") as table:
        table.add_column(sa.Column("session_id", sa.BigInteger(), nullable=True))
        table.add_column(sa.Column("leased_delta_micros", sa.BigInteger(), nullable=False, server_default="0"))
    with op.batch_alter_table("ledger_journal") as table:
        table.alter_column(
            "leased_delta_micros", existing_type=sa.BigInteger(), existing_nullable=False, server_default=None
        )


def downgrade() -> None:
    """Void reservations have no place in the older tables; leases must have gone back before."""
    with op.batch_alter_table("ledger_journal") as table:
        table.drop_column("leased_delta_micros")
        table.drop_column("session_id")
    op.drop_index("ix_reservations_sub_request_id", "reservations")
    op.execute("DELETE FROM reservations WHERE status = 'void'")
    with op.batch_alter_table("reservations") as table:
        table.create_unique_constraint("uq_reservations_sub_request_id_brand_id", ["sub", "request_id", "brand_id"])
        table.add_column(sa.Column("confirmed", sa.Boolean(), nullable=False, server_default=sa.false()))
        table.drop_column("instead_id")
        table.drop_column("award_id")
        table.drop_column("session_id")
    with op.batch_alter_table("reservations") as table:
        table.alter_column("confirmed", existing_type=sa.Boolean(), existing_nullable=False, server_default=None)
    op.drop_table("leases")
    op.drop_table("ledger_sessions")
