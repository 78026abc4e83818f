"""Finding the source of ``pkg.mod:callable`` without importing anything, and importing it when a step runs."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType

from pytest_lakebranch.errors import ConfigError

MOST_NAMES = 8
_DYNAMIC = re.compile(r"import\s*\(?\s*\*|__getattr__|globals\(|setattr\(|exec\(")


def source_of(name: str, *, root: Path, label: str) -> Path:
    """The file of module ``name``, searched from ``root`` and then as Python does; no parent package is executed."""
    importlib.invalidate_caches()
    path: list[str] | None = [str(root), *sys.path]
    spec: ModuleSpec | None = None
    for part in name.split("."):
        spec = None if path is None else _find(part, path)
        if spec is None:
            raise ConfigError(f"{label}: there is no module {name}: {part!r} was not found in {_places(path, root)}.")
        path = None if spec.submodule_search_locations is None else list(spec.submodule_search_locations)
    if spec is None or spec.origin is None or not Path(spec.origin).is_file():
        raise ConfigError(f"{label}: {name} is a folder or a built-in module without a source file.")
    return Path(spec.origin)


def _find(part: str, path: list[str]) -> ModuleSpec | None:
    """By the last part of the name alone: given a dotted one, the machinery asks for the imported parent."""
    found = PathFinder.find_spec(part, path)
    if found is None and path[1:] == sys.path:
        try:  # a top-level name of an editable installation, which has a finder of its own
            found = importlib.util.find_spec(part)
        except (ImportError, ValueError):
            return None
    return found


def _places(path: list[str] | None, root: Path) -> str:
    if path is None:
        return "it, because what comes before it is a module and no package"
    return f"{root} or on Python's search path" if path[1:] == sys.path else ", ".join(path)


def check_names(file: Path, attribute: str, label: str) -> None:
    """ConfigError when the module certainly has no such attribute, or is no valid Python."""
    if file.suffix != ".py":
        return
    try:
        source = file.read_bytes()
        tree = _parsed(source, file)
    except OSError as error:
        raise ConfigError(f"{label}: {file} cannot be read: {error.strerror}.") from error
    except (SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", None)
        at = f"{file}:{line}" if line else str(file)
        raise ConfigError(f"{label}: {at} is not valid Python: {getattr(error, 'msg', error)}.") from error
    text = source.decode(errors="replace")
    first = attribute.partition(".")[0]
    if not re.search(rf"\b{re.escape(first)}\b", text) and not _DYNAMIC.search(text):
        raise ConfigError(f"{label}: {file} defines no {first}.{did_you_mean(first, _functions(tree))}")


def _parsed(source: bytes, file: Path) -> ast.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the import will tell about them, where the user can filter them
        return ast.parse(source, str(file))


def _functions(tree: ast.Module) -> list[str]:
    return [node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)]


def did_you_mean(word: str, known: list[str]) -> str:
    """`` Did you mean X?``, or what there is; empty when there is nothing."""
    near = get_close_matches(word, known, n=1)
    if near:
        return f" Did you mean {near[0]}?"
    return f" It has {', '.join(known[:MOST_NAMES])}{', …' if len(known) > MOST_NAMES else ''}." if known else ""


def load(name: str, root: Path) -> ModuleType:
    """Import a module with ``root`` first on the search path."""
    importlib.invalidate_caches()
    with _on_search_path(root):
        return importlib.import_module(name)


def is_from(module: ModuleType, file: Path) -> bool:
    """Whether a module was read from ``file``, as far as it says where it is from."""
    origin = getattr(module, "__file__", None)
    return origin is None or Path(origin).resolve() == file.resolve()


@contextmanager
def _on_search_path(root: Path) -> Iterator[None]:
    sys.path.insert(0, str(root))
    try:
        yield
    finally:
        if str(root) in sys.path:
            sys.path.remove(str(root))


def require(name: str, *, extra: str, label: str) -> None:
    """ConfigError that names the extra when a library is not installed; it is not imported."""
    if importlib.util.find_spec(name) is None:
        raise ConfigError(f"{label} needs {name}, which is not installed: `pip install 'pytest-lakebranch[{extra}]'`.")
