"""Lending books, with SQLAlchemy's asyncio engine over asyncpg."""

import os

from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

engine = create_async_engine(os.environ["SQLALCHEMY_URL"])


class NoCopyLeftError(Exception):
    """All copies are lent."""


async def lend(title: str, reader: str) -> int:
    """Lend a copy; how many are left."""
    async with engine.begin() as connection:
        taken = text("UPDATE book SET copies = copies - 1 WHERE title = :title AND copies > 0 RETURNING id, copies")
        row = (await connection.execute(taken, {"title": title})).one_or_none()
        if row is None:
            raise NoCopyLeftError(title)
        await connection.execute(text("INSERT INTO loan VALUES (:book, :reader)"), {"book": row.id, "reader": reader})
        return row.copies
