"""``lakebranch layers``: the cache of sealed bases."""

from __future__ import annotations

import time
from argparse import Namespace
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pytest_lakebranch import amounts
from pytest_lakebranch.cli import arguments, output
from pytest_lakebranch.errors import BranchError

if TYPE_CHECKING:
    from pytest_lakebranch.providers.local.cache import StoredLayer

SHORT = 12


def declare(commands: arguments.Commands) -> None:
    """Declare the commands."""
    group = commands.add_parser("layers", help="the cache of sealed bases: list it, make room, have it built anew")
    inner = group.add_subparsers(dest="layers_command", required=True, metavar="COMMAND")
    arguments.command(inner, "ls", "list the layers, the most recently used first").set_defaults(act=_ls)
    build = arguments.command(inner, "build", "build this project's base if it is not in the cache")
    build.set_defaults(act=_build)
    prune = arguments.command(inner, "prune", "delete layers that no run uses, the least recently used first")
    prune.add_argument("--older-than", type=arguments.span, metavar="SPAN", help="those not used for, say, 7d or 12h")
    prune.add_argument("--to", type=arguments.size, metavar="SIZE", help="until the cache is no larger than, say, 2G")
    prune.add_argument("--all", action="store_true", help="all of them")
    prune.add_argument("--dry-run", action="store_true", help="say what would be deleted, and delete nothing")
    prune.set_defaults(act=_prune)
    rebuild = arguments.command(inner, "rebuild", "forget layers, so that the next run runs their steps again")
    rebuild.add_argument("key", nargs="*", metavar="KEY", help="keys or their beginnings (default: this project's)")
    rebuild.add_argument("--all", action="store_true", help="all layers of all projects")
    rebuild.set_defaults(act=_rebuild)


def _build(parsed: Namespace) -> int:
    from pytest_lakebranch.cli import building
    from pytest_lakebranch.cli.project import project, state

    key, built = building.ensure(project(parsed).settings, state(parsed, new=True))
    output.show(parsed, {"key": key, "built": built}, [f"{'built' if built else 'in the cache'}: {key[:SHORT]}"])
    return 0


def _ls(parsed: Namespace) -> int:
    from pytest_lakebranch.cli.project import state
    from pytest_lakebranch.providers.local.cache import stored

    found = state(parsed)
    layers = stored(found.layers)
    total = sum(layer.bytes for layer in layers)
    facts = {"home": str(found.home), "bytes": total, "layers": [_fact(layer) for layer in layers]}
    rows = [_row(layer) for layer in layers]
    lines = output.table(("LAYER", ">SIZE", ">USED", ">BUILT", "POSTGRESQL", "STATE"), rows) if rows else ["no layers"]
    output.show(
        parsed, facts, [*lines, f"{amounts.many(len(layers), 'layer')}, {output.size(total)}"][: None if rows else 1]
    )
    return 0


def _fact(layer: StoredLayer) -> dict[str, Any]:
    kept = ("key", "bytes", "postgres", "origin", "created", "used", "in_use", "damaged")
    return {name: getattr(layer, name) for name in kept} | {"directory": str(layer.directory)}


def _row(layer: StoredLayer) -> tuple[str, ...]:
    now = time.time()
    standing = "damaged" if layer.damaged else "in use" if layer.in_use else ""
    ages = (output.age(now - layer.used), output.age(now - layer.created))
    postgres = f"{layer.postgres} ({layer.origin})" if layer.postgres else ""
    return layer.key[:SHORT], output.size(layer.bytes), *ages, postgres, standing


def _prune(parsed: Namespace) -> int:
    from pytest_lakebranch.cli.project import state
    from pytest_lakebranch.errors import ConfigError
    from pytest_lakebranch.providers.local.cache import remove, stored

    if not (parsed.all or parsed.older_than is not None or parsed.to is not None):
        raise ConfigError("layers prune: say which: --older-than SPAN, --to SIZE, or --all.")
    chosen = _chosen(stored(state(parsed).layers), parsed)
    kept = [layer for layer in chosen if layer.in_use]
    gone = [layer for layer in chosen if not layer.in_use and (parsed.dry_run or remove(layer))]
    word = "would delete" if parsed.dry_run else "deleted"
    lines = [f"{word} {layer.key[:SHORT]} ({output.size(layer.bytes)})" for layer in gone]
    lines += [f"kept {layer.key[:SHORT]}: a run or a kept branch uses it" for layer in kept]
    facts = {"dry_run": parsed.dry_run, "deleted": _keys(gone), "in_use": _keys(kept), "bytes": _bytes(gone)}
    output.show(parsed, facts, lines or ["nothing to delete"])
    return 0


def _chosen(layers: Sequence[StoredLayer], parsed: Namespace) -> list[StoredLayer]:
    """The least recently used first. Damaged layers always go."""
    now, total, chosen = time.time(), _bytes(layers), []
    for layer in reversed(layers):
        old = parsed.older_than is not None and now - layer.used > parsed.older_than
        too_much = parsed.to is not None and total > parsed.to
        if parsed.all or old or too_much or layer.damaged:
            chosen.append(layer)
            total -= 0 if layer.in_use else layer.bytes
    return chosen


def _bytes(layers: Sequence[StoredLayer]) -> int:
    return sum(layer.bytes for layer in layers)


def _keys(layers: Sequence[StoredLayer]) -> list[str]:
    return [layer.key for layer in layers]


def _rebuild(parsed: Namespace) -> int:
    from pytest_lakebranch.providers.local.cache import forget

    wanted = _wanted(parsed)
    done = [layer for layer in wanted if forget(layer)]
    busy = [layer for layer in wanted if layer not in done]
    lines = [f"forgot {layer.key[:SHORT]} ({output.size(layer.bytes)})" for layer in done]
    lines += [f"{layer.key[:SHORT]} is being built just now: left alone" for layer in busy]
    output.show(parsed, {"forgotten": _keys(done), "being_built": _keys(busy)}, lines or ["there is no such layer"])
    return 0


def _wanted(parsed: Namespace) -> list[StoredLayer]:
    from pytest_lakebranch.cli.project import project, state
    from pytest_lakebranch.providers.local.cache import matching, stored

    layers = stored(state(parsed).layers)
    if parsed.all:
        return layers
    if parsed.key:
        return [matching(layers, key) for key in parsed.key]
    from pytest_lakebranch.cli.base import keys

    known = keys(project(parsed).settings)[1:]
    found = [layer for layer in layers if layer.key in known]
    if not found:
        raise BranchError(
            "none of this project's layers is in the cache (steps that a conftest.py supplies by a hook are not known "
            "here). `lakebranch layers ls` lists all; give a KEY, or --all."
        )
    return found
