"""The order of migrations that depend on each other."""

from __future__ import annotations

import random

from pytest_lakebranch.steps.tracked import ordered


def graph(**after: str) -> list[dict[str, object]]:
    """Revisions by name, each with those it comes after."""
    return [{"revision": name, "after": others.split()} for name, others in after.items()]


def names(found: list[dict[str, object]]) -> str:
    """Their names in order."""
    return " ".join(str(one["revision"]) for one in found)


def test_new_ones_come_last() -> None:
    """Also one that the tool would put in front, and one that was away meanwhile comes back to its place."""
    seen = ["b1", "b2", "a1"]
    assert names(ordered(graph(a1="", b1="", b2="b1"), seen)) == "b1 b2 a1"
    assert names(ordered(graph(a1="", b1=""), seen)) == "b1 a1"
    assert names(ordered(graph(a1="", b1="", c1="a1 b1", b2="b1"), [*seen, "c1"])) == "b1 b2 a1 c1"


def test_dependencies_win() -> None:
    """What was seen first waits for a new one that it now depends on."""
    assert names(ordered(graph(a="", n="a", b="n", c=""), ["a", "b", "c", "n"])) == "a c n b"


def test_what_is_appended_leaves_the_rest_as_it_is() -> None:
    """For any graph: without the newest, which nothing depends on, the order is the same."""
    dice = random.Random(1)
    for _ in range(200):
        seen = [f"m{number}" for number in range(12)]
        dice.shuffle(seen)
        age = {name: number for number, name in enumerate(dice.sample(seen, len(seen)))}
        whole = [
            {"revision": name, "after": [other for other in seen if age[other] < age[name] and dice.random() < 0.2]}
            for name in seen
        ]
        newest = seen[-1]
        rest = [one for one in whole if one["revision"] != newest]
        for one in rest:
            one["after"] = [other for other in one["after"] if other != newest]
        order = ordered(whole, seen)
        assert names(order[:-1]) == names(ordered(rest, seen))
        assert order[-1]["revision"] == newest
        place = {one["revision"]: number for number, one in enumerate(order)}
        assert all(place[other] < place[one["revision"]] for one in whole for other in one["after"])
