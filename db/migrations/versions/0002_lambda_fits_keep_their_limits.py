"""λ fits keep their limits, and how far they are from optimal

Revision: 0002
After: 0001
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("lambda_fits", sa.Column("target_roas", sa.Double(), nullable=True))
    op.add_column("lambda_fits", sa.Column("portfolio_target_roas", sa.Double(), nullable=True))
    op.add_column("lambda_fits", sa.Column("daily_budget_micros", sa.BigInteger(), nullable=True))
    op.add_column("lambda_fits", sa.Column("portfolio_daily_budget_micros", sa.BigInteger(), nullable=True))
    op.add_column("lambda_fits", sa.Column("kkt_residual", sa.Double(), nullable=True))
    op.add_column("lambda_fits", sa.Column("duality_gap", sa.Double(), nullable=True))
    op.add_column("lambda_fits", sa.Column("converged", sa.Boolean(), server_default=sa.true(), nullable=False))


def downgrade() -> None:
    op.drop_column("lambda_fits", "converged")
    op.drop_column("lambda_fits", "duality_gap")
    op.drop_column("lambda_fits", "kkt_residual")
    op.drop_column("lambda_fits", "portfolio_daily_budget_micros")
    op.drop_column("lambda_fits", "daily_budget_micros")
    op.drop_column("lambda_fits", "portfolio_target_roas")
    op.drop_column("lambda_fits", "target_roas")
