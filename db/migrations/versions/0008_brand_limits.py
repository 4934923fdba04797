"""brands: limits of λ, of a win's cost, of what partners say and of what they hold"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for name, default in (("lambda_floor", "0.08"), ("cost_tolerance", "1.5"), ("holds_share", "0.25")):
        op.add_column("brands", sa.Column(name, sa.Double(), nullable=False, server_default=sa.text(default)))
    op.add_column("brands", sa.Column("max_cost_micros", sa.BigInteger(), nullable=True))


def downgrade() -> None:
    for name in ("max_cost_micros", "holds_share", "cost_tolerance", "lambda_floor"):
        op.drop_column("brands", name)
