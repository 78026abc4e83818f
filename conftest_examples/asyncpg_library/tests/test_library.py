"""Coroutines that commit, each on a fresh branch."""

import asyncio

import pytest
from library.loans import NoCopyLeftError, lend
from library.reports import lent


@pytest.mark.parametrize("number", range(5))
async def test_only_copy(number):
    """The only copy is there again for each test."""
    assert await lend("Middlemarch", "ada") == 0
    with pytest.raises(NoCopyLeftError):
        await lend("Middlemarch", "grace")
    assert await lent() == {"Middlemarch": ["ada"]}


async def test_readers_at_the_same_time():
    """Three readers want one of two copies."""
    outcomes = await asyncio.gather(*(lend("Emma", name) for name in "abc"), return_exceptions=True)
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["NoCopyLeftError", "int", "int"]
    assert len((await lent())["Emma"]) == 2


async def test_nothing_is_lent():
    """Whatever other tests lent."""
    assert await lent() == {}


async def test_with_our_own_connection(lakebranch):
    """A branch opens connections for coroutines, too."""
    await lend("Villette", "ada")
    async with await lakebranch.aconnect() as connection:
        cursor = await connection.execute("SELECT reader FROM loan")
        assert await cursor.fetchall() == [("ada",)]
