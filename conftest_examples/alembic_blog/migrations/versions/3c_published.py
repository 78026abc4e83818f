"""published"""

import sqlalchemy as sa
from alembic import op

revision = "3c"
down_revision = "2b"


def upgrade() -> None:
    """Articles are drafts until they are published; those there are have been."""
    op.add_column("article", sa.Column("published", sa.Boolean, server_default=sa.false(), nullable=False))
    op.execute("UPDATE article SET published = true")


def downgrade() -> None:
    """All articles are published again."""
    op.drop_column("article", "published")
