"""events: an index by brand and time, for the night's look at a brand's day

Revision: 0006
After: 0005
"""

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("ix_events_brand_id_occurred_at", "events", ["brand_id", "occurred_at"])


def downgrade() -> None:
    op.drop_index("ix_events_brand_id_occurred_at", "events")
