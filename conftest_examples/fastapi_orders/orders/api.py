"""The application."""

from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException
from pydantic import BaseModel
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from orders.database import Item, Purchase, session

app = FastAPI()
Database = Annotated[Session, Depends(session)]


class Wanted(BaseModel):
    """What is to be bought."""

    item: str
    quantity: int


@app.get("/items/{name}")
def item(name: str, database: Database) -> dict[str, object]:
    """One item."""
    found = database.scalar(select(Item).where(Item.name == name))
    if found is None:
        raise HTTPException(404)
    return {"name": found.name, "stock": found.stock}


@app.post("/purchases", status_code=201)
def buy(wanted: Wanted, database: Database) -> dict[str, object]:
    """Take something out of the stock."""
    found = database.scalar(select(Item).where(Item.name == wanted.item).with_for_update())
    if found is None or found.stock < wanted.quantity:
        raise HTTPException(409, "sold out")
    found.stock -= wanted.quantity
    purchase = Purchase(item_id=found.id, quantity=wanted.quantity)
    database.add(purchase)
    database.flush()
    return {"purchase": purchase.id, "left": found.stock}


@app.get("/purchases/count")
def count(database: Database) -> int:
    """How many purchases there were."""
    return database.scalar(select(func.count()).select_from(Purchase)) or 0
