"""articles"""

import sqlalchemy as sa
from alembic import op

revision = "2b"
down_revision = "1a"


def upgrade() -> None:
    """Add articles."""
    op.create_table(
        "article",
        sa.Column("id", sa.Integer, sa.Identity(), primary_key=True),
        sa.Column("author_id", sa.Integer, sa.ForeignKey("author.id"), nullable=False),
        sa.Column("title", sa.Text, nullable=False),
    )


def downgrade() -> None:
    """Remove them."""
    op.drop_table("article")
