"""Schema diffs: what they say, what they assert, what they call destructive, what they take for a rename."""

from __future__ import annotations

import pytest

from pytest_lakebranch.schema import loss
from pytest_lakebranch.schema.diff import SchemaDiff, compare
from pytest_lakebranch.schema.markdown import markdown
from pytest_lakebranch.schema.model import Schema, Thing

BIG = Thing("column", "public.t.big", {"type": "bigint"}, "public.t")
TABLE = Thing("table", "public.t", {"owner": "postgres"})


def column(name: str, table: str = "public.t", **facts: str) -> Thing:
    """A column of a table."""
    return Thing("column", f"{table}.{name}", {"type": "text", **facts}, table)


def diff(before: list[Thing], after: list[Thing]) -> SchemaDiff:
    """What leads from one list of things to another."""
    return compare(Schema(before), Schema(after))


TEXT = """\
2 added, 1 removed, 1 changed; 2 destructive
+ table public.order
    column id  bigint not null identity always
    constraint order_pkey  PRIMARY KEY (id)
- column public.t.code  text
    DESTRUCTIVE: its values are lost
    hint: renamed to public.t.sku? It was added, and is equal but for the name
~ column public.t.price
    DESTRUCTIVE: not every bigint is a integer
    type: bigint → integer
    default: none → 0
+ column public.t.sku  text
    hint: renamed from public.t.code? It was removed, and is equal but for the name
"""


def example() -> SchemaDiff:
    """Something of everything."""
    identity = {"type": "bigint", "not null": "yes", "identity": "always"}
    order = [
        Thing("table", "public.order", {}),
        Thing("column", "public.order.id", identity, "public.order"),
        Thing("constraint", "public.order.order_pkey", {"definition": "PRIMARY KEY (id)"}, "public.order"),
    ]
    return diff(
        [TABLE, column("price", type="bigint"), column("code")],
        [TABLE, column("price", type="integer", default="0"), column("sku"), *order],
    )


def test_text() -> None:
    """A diff as text is the same for the same difference: it can be a golden file."""
    assert str(example()) == TEXT


def test_markdown_begins_with_what_is_destroyed() -> None:
    """What loses data stands first; the details are coloured by GitHub."""
    told = markdown(example())
    assert told.index("[!CAUTION]") < told.index("#### Removed") < told.index("#### Changed") < told.index("#### Added")
    assert "- column `public.t.price` ⚠️" in told
    assert "  - type: bigint\n  + type: integer\n  + default: 0\n" in told


def test_markdown_takes_names_as_they_are() -> None:
    """Whatever a name holds does not become markup."""
    name = 'public."a`b<script>"'
    told = diff([], [Thing("table", name, {"comment": "```\n<b>"})]).markdown()
    assert f"`` {name} ``" in told
    assert "<b>" not in told.replace("```", "")


def test_markdown_fits_a_comment() -> None:
    """What is longer than GitHub takes is cut, and says so."""
    told = diff([], [Thing("view", f"public.v{n}", {"definition": "x" * 100}) for n in range(2000)]).markdown()
    assert len(told) < 65_536
    assert "more characters were left out" in told


def test_json_holds_everything() -> None:
    """For programs: three lists, each entry with its facts before and after."""
    stored = example().to_json()
    assert (stored["version"], stored["from"], stored["to"]) == (1, "before", "after")
    assert [one["name"] for one in stored["removed"]] == ["public.t.code"]
    (changed,) = stored["changed"]
    assert changed["facts"] == {"type": ["bigint", "integer"], "default": [None, "0"]}
    assert changed["destructive"] is True
    assert [part["name"] for part in stored["added"][0]["parts"]] == ["public.order.id", "public.order.order_pkey"]


def test_only() -> None:
    """An assertion names all differences; `public.` may be left out."""
    named = {"added": ["table order", "column public.t.sku"], "removed": ["column t.code"]}
    assert example().only(**named, changed=["column t.price"])
    with pytest.raises(AssertionError) as caught:
        example().only(added=["table order", "table other"], changed=["column t.price"])
    said = str(caught.value)
    assert "not expected: + column public.t.sku" in said
    assert "not expected: - column public.t.code" in said
    assert "missing:      + table other" in said
    assert said.endswith(TEXT)


def test_nothing_differs() -> None:
    """Equal schemas make a diff that is false, and that asserts nothing changed."""
    same = diff([TABLE, BIG], [TABLE, BIG])
    assert not same
    assert same.only()
    assert same.markdown().endswith("no changes.\n")


@pytest.mark.parametrize(
    ("old", "new", "loses"),
    [
        ("smallint", "integer", False),
        ("integer", "bigint", False),
        ("bigint", "numeric", False),
        ("integer", "numeric(5,2)", True),
        ("bigint", "integer", True),
        ("character varying(10)", "character varying(20)", False),
        ("character varying(20)", "character varying(10)", True),
        ("character varying(20)", "text", False),
        ("text", "character varying", True),
        ("character varying", "character varying(10)", True),
        ("character varying(10)", "character varying", False),
        ("numeric(10,2)", "numeric(12,2)", False),
        ("numeric(10,2)", "numeric(10,4)", True),
        ("numeric(10,2)", "numeric", False),
        ("timestamp(3) without time zone", "timestamp(6) without time zone", False),
        ("timestamp without time zone", "timestamp with time zone", True),
        ("text", "jsonb", True),
        ("public.hstore", "extensions.hstore", False),
        ("integer[]", "bigint[]", False),
        ("bigint[]", "integer[]", True),
        ("integer", "integer[]", True),
        ("character varying(10)[]", "character varying(5)[]", True),
        ("real", "double precision", False),
        ("double precision", "real", True),
        ("integer", "real", True),
        ("integer", "double precision", False),
        ("bigint", "double precision", True),
        ("real", "numeric", True),
        ("date", "timestamp without time zone", False),
        ("timestamp without time zone", "date", True),
        ("date", "timestamp with time zone", True),
    ],
)
def test_types_that_lose(old: str, new: str, loses: bool) -> None:
    """A change of type is destructive unless the new type surely holds every value of the old one."""
    assert bool(loss.of_change(column("c", type=old), column("c", type=new), Schema([]), Schema([]))) == loses


def enum(name: str, values: str) -> Thing:
    """An enum with these labels."""
    return Thing("enum", name, {"values": values, "owner": name})


@pytest.mark.parametrize(
    ("made", "loses"),
    [
        (enum("s2.st", "'a'"), True),
        (enum("s2.st", "'a', 'b', 'c'"), False),
        (Thing("domain", "s2.st", {"type": "text"}), True),
        (None, True),
    ],
    ids=["fewer", "more", "another kind", "an extension's"],
)
@pytest.mark.parametrize("suffix", ["", "[]"])
def test_a_type_of_the_same_name_elsewhere(made: Thing | None, loses: bool, suffix: str) -> None:
    """It is the same one moved only if it holds what that did."""
    before = Schema([column("x", type=f"public.st{suffix}"), enum("public.st", "'a', 'b'"), TABLE])
    after = Schema([column("x", type=f"s2.st{suffix}"), TABLE, *([made] if made else [])])
    (change,) = (entry for entry in compare(before, after).entries if entry.thing.kind == "column")
    assert bool(change.loss) == loses


@pytest.mark.parametrize(
    ("attributes", "lost"),
    [
        ("street text", "city"),
        ("street text, city character varying(5)", "city"),
        ("city character varying(20), street text, more numeric(9,2)", ""),
        ('"Street, 2" text, city character varying(10)', "street"),
    ],
)
def test_attributes_of_composite_types(attributes: str, lost: str) -> None:
    """One that goes, or that holds less, takes its values with it."""
    before = Thing("type", "public.addr", {"attributes": "street text, city character varying(10)"})
    (entry,) = diff([before], [Thing("type", "public.addr", {"attributes": attributes})]).entries
    assert entry.loss == (f"values of attributes are lost: {lost}" if lost else "")


def test_several_equal_columns_are_told_apart_by_name() -> None:
    """Where two columns of the same type go and two come, those with similar names belong together."""
    before = [TABLE, column("first_name"), column("town")]
    hints = {entry.title: entry.hint for entry in diff(before, [TABLE, column("name"), column("place")]).entries}
    assert "renamed to public.t.name?" in hints["column public.t.first_name"]
    assert hints["column public.t.town"] == ""


def test_a_renamed_table_is_told_by_its_columns() -> None:
    """A table that goes and one with the same columns that comes are hinted at; others are not."""
    one = [Thing("table", "public.a", {}), column("x", "public.a")]
    other = [Thing("table", "public.b", {}), column("x", "public.b")]
    assert "renamed to public.b?" in diff(one, other).entries[0].hint
    assert {entry.hint for entry in diff(one, [*other, column("y", "public.b")]).entries} == {""}


def test_databases_with_other_roles() -> None:
    """An owner who is called otherwise throughout is said once."""
    theirs = [Thing("table", name, {"owner": "app"}) for name in ("public.a", "public.b")]
    ours = [Thing("table", name, {"owner": "postgres"}) for name in ("public.a", "public.b")]
    found = compare(Schema(theirs), Schema(ours), other_roles=True)
    assert found.entries == ()
    assert found.notes == ("what belonged to app belongs to postgres",)
    assert found.text().startswith("no changes but of owners\n")
    assert not found
    assert found.only()
    assert compare(Schema(theirs), Schema([ours[0], theirs[1]]), other_roles=True).changed == ("table public.a",)


def test_owners_among_the_same_roles() -> None:
    """In databases with the same roles another owner is a difference, also where all things have it."""
    found = diff([Thing("table", "public.a", {"owner": "app"})], [Thing("table", "public.a", {"owner": "postgres"})])
    assert (found.changed, found.notes) == (("table public.a",), ())
    with pytest.raises(AssertionError, match="not expected: ~ table"):
        found.only()


def test_partitions_follow_their_parent() -> None:
    """A column that changes with its parent's is not named for every partition; one that changes alone is."""
    part = Thing("column", "public.p.c", {"type": "text"}, "public.p", ("public.t.c",))
    new_part = Thing("column", "public.p.c", {"type": "integer"}, "public.p", ("public.t.c",))
    tables = [TABLE, Thing("table", "public.p", {})]
    both = diff([*tables, column("c"), part], [*tables, column("c", type="integer"), new_part])
    assert both.changed == ("column public.t.c",)
    assert diff([*tables, column("c"), part], [*tables, column("c"), new_part]).changed == ("column public.p.c",)
