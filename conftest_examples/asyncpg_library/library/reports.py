"""What is lent, with asyncpg alone."""

import os

import asyncpg


async def lent() -> dict[str, list[str]]:
    """The readers of each book that is lent."""
    connection = await asyncpg.connect(os.environ["DATABASE_URL"])
    try:
        rows = await connection.fetch(
            "SELECT title, array_agg(reader ORDER BY reader) AS readers "
            "FROM loan JOIN book ON id = book_id GROUP BY title"
        )
        return {row["title"]: row["readers"] for row in rows}
    finally:
        await connection.close()
