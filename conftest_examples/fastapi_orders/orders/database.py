"""The engine, made when this module is imported."""

import os
from collections.abc import Iterator

from sqlalchemy import CheckConstraint, ForeignKey, create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker

engine = create_engine(os.environ["DATABASE_URL"], pool_size=5)
Sessions = sessionmaker(engine, expire_on_commit=False)


class Base(DeclarativeBase):
    """All tables."""


class Item(Base):
    """Something that can be bought."""

    __tablename__ = "item"
    __table_args__ = (CheckConstraint("stock >= 0"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    stock: Mapped[int]


class Purchase(Base):
    """So many pieces of an item."""

    __tablename__ = "purchase"
    id: Mapped[int] = mapped_column(primary_key=True)
    item_id: Mapped[int] = mapped_column(ForeignKey("item.id"))
    quantity: Mapped[int]


def session() -> Iterator[Session]:
    """One session for a request, committed when all went well."""
    with Sessions.begin() as opened:
        yield opened
