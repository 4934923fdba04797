"""shards

Revision: 0003
After: 0002
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """An epoch belongs to a layout: so many shards, decided at that time (seconds since 1970)."""
    op.add_column("ledger_epochs", sa.Column("shards", sa.Integer(), nullable=False, server_default=sa.text("1")))
    op.add_column("ledger_epochs", sa.Column("decided_at", sa.Double(), nullable=False, server_default=sa.text("0")))


def downgrade() -> None:
    op.drop_column("ledger_epochs", "decided_at")
    op.drop_column("ledger_epochs", "shards")
