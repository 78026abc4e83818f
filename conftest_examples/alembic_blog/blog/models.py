"""Authors and articles, and the engine, made when this module is imported."""

import os

from sqlalchemy import ForeignKey, create_engine, false, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship

engine = create_engine(os.environ["DATABASE_URL"])


class Base(DeclarativeBase):
    """All tables."""


class Author(Base):
    """Who writes."""

    __tablename__ = "author"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)


class Article(Base):
    """What is written."""

    __tablename__ = "article"
    id: Mapped[int] = mapped_column(primary_key=True)
    author_id: Mapped[int] = mapped_column(ForeignKey("author.id"))
    title: Mapped[str]
    published: Mapped[bool] = mapped_column(server_default=false())
    author: Mapped[Author] = relationship()


def titles() -> list[str]:
    """What readers see."""
    with Session(engine) as session:
        return list(session.scalars(select(Article.title).where(Article.published).order_by(Article.title)))


def publish(title: str) -> None:
    """Show an article to readers."""
    with Session(engine) as session, session.begin():
        session.scalars(select(Article).where(Article.title == title)).one().published = True
