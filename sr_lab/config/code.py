"""The code behind the classes that a run names: a digest of each module that computes its results.

The digests cover the module of each class and every module that it imports, even indirectly or inside
functions, if they are the user's own or in sr_lab's packages that compute. Python's library and installed
packages do not count (``metrics.json`` records the versions of packages), except those that the user trusts
with ``allow``.

Comments, docstrings, formatting, imports for type checkers and error messages make no difference, so an
upgrade that does not change a network's code does not start a new run. Not covered: modules imported under a
computed name, what an ``__init__.py`` does apart from defining what is imported from it, and data files.
"""

import ast
import functools
import hashlib
import importlib.util
import sys
import warnings
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import NamedTuple

from sr_lab.config import targets
from sr_lab.errors import ConfigError

# Our packages that compute results. The others (errors, files, reports, the training loop) are identified by
# the recorded commit.
_COMPUTE = {"models", "layers", "upsamplers", "strategies", "ops", "losses", "datasets", "degradations"}
# The packages whose modules can take part in measuring a network, and the modules at which the search along
# imports begins.
_MEASURE = _COMPUTE | {"protocol", "metrics", "inference", "training"}
_MEASURING = ("sr_lab.training.lit_module", "sr_lab.inference.backends")
# The versions of these libraries are recorded; their code does not count, even if they are built from source
# or listed in ``allow``.
_LIBRARIES = {"torch", "torchvision", "lightning", "torchmetrics", "kornia", "numpy", "scipy", "PIL"}
_INSTALLED = {"site-packages", "dist-packages"}
# These modules move pixels without changing them.
_PLUMBING = ("sr_lab.datasets.cache", "sr_lab.datasets.sharing")


class Code(NamedTuple):
    """The code that classes need."""

    digests: dict[str, str]  # name and digest of each module that counts, sorted by name
    libraries: set[str]  # top-level names of the installed packages that these modules import


def digests(described: object, allow: Sequence[str] = ()) -> dict[str, str]:
    """Name and digest of each module that the described classes need; see `needed`."""
    return needed(described, allow).digests


def needed(described: object, allow: Sequence[str] = ()) -> Code:
    """The code that the described classes need.

    Args:
        described: Descriptions with a ``_target_``, nested in any way.
        allow: Packages that the user trusts, in addition to those in ``SR_LAB_ALLOW``.

    Raises:
        ConfigError: A class is not defined in a file.
    """
    trusted = targets.trusted_packages(allow)
    waiting: list[str] = []
    for path in dict.fromkeys(named(described)):
        module, _, name = path.rpartition(".")
        roots = [str(targets.locate(path).__module__), *_origin(module, name, trusted)]
        for root in roots:
            if _counts(root, trusted) and _read(root) is None:
                raise ConfigError(
                    f"{path}: is not defined in a file, so a change to its code would not be noticed; "
                    "put the class into a module"
                )
        waiting += roots
    return _reached(waiting, trusted)


def measuring() -> dict[str, str]:
    """Name and digest of each of our modules that takes part in measuring any network."""
    return _reached(_MEASURING, (), _MEASURE).digests


def _reached(names: Iterable[str], trusted: Sequence[str], packages: Collection[str] = _COMPUTE) -> Code:
    """The given modules that count, and every module that they import."""
    waiting = list(names)
    found: dict[str, str] = {}
    outside: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        if not _counts(name, trusted, packages):
            outside.add(name.partition(".")[0])
            continue
        read = _read(name)
        if read is None:  # a namespace package, or an optional import that is missing
            continue
        found[name] = read.digest
        for base, imported in read.imports:
            waiting += [base] if imported is None else _origin(base, imported, trusted, packages)
    counted = {name: found[name] for name in sorted(found) if found[name]}
    return Code(counted, outside - sys.stdlib_module_names - {"sr_lab"})


def named(value: object) -> Iterator[str]:
    """Every class in a description."""
    if isinstance(value, Mapping):
        if isinstance(path := value.get("_target_"), str):
            yield path
        value = list(value.values())
    for child in value if isinstance(value, list) else ():
        yield from named(child)


def _counts(name: str, trusted: Sequence[str], packages: Collection[str] = _COMPUTE) -> bool:
    """Whether a module is the user's own, or in one of the given packages of sr_lab."""
    top, _, rest = name.partition(".")
    if top == "sr_lab":
        return rest.partition(".")[0] in packages and name not in _PLUMBING
    if top in _LIBRARIES or top in sys.stdlib_module_names:
        return False
    if any(f"{name}.".startswith(f"{package}.") for package in trusted):
        return True
    spec = _spec(top)
    places = [] if spec is None else [spec.origin or "", *(spec.submodule_search_locations or ())]
    return not any(_INSTALLED.intersection(Path(place).parts) for place in places)


def _origin(
    module: str, name: str, trusted: Sequence[str], packages: Collection[str] = _COMPUTE
) -> list[str]:
    """The modules that define what ``from <module> import <name>`` imports; ``*`` stands for all names."""
    passed: set[str] = set()
    while module not in passed and _counts(module, trusted, packages):
        passed.add(module)
        read = _read(module)
        if read is None:
            return [f"{module}.{name}"]
        if name == "*":
            return [module, *(inside for child in read.exported if _spec(inside := f"{module}.{child}"))]
        base = read.passed_on.get(name)
        if base is None or not _counts(base, trusted, packages):
            inside = f"{module}.{name}"
            return [inside if name not in read.bound and _spec(inside) is not None else module]
        module = base  # not the __init__.py that only re-exports the name: all its imports would count
    return [module]


@dataclass(frozen=True)
class _Module:
    """What we need from a module's source."""

    digest: str  # empty for a module without code
    imports: frozenset[tuple[str, str | None]] = frozenset()  # module and name; None for ``import module``
    passed_on: Mapping[str, str] = field(default_factory=dict)  # names imported without renaming -> module
    bound: frozenset[str] = frozenset()  # names that the module defines or imports
    exported: tuple[str, ...] = ()  # ``__all__``


def _spec(name: str) -> ModuleSpec | None:
    """Find a module without importing it or its package."""
    spec: ModuleSpec | None = getattr(sys.modules.get(name), "__spec__", None)
    if spec is not None and name != "__main__":
        return spec
    parent, _, _ = name.rpartition(".")
    try:
        if not parent:
            return importlib.util.find_spec(name)
        package = _spec(parent)
        places = None if package is None else package.submodule_search_locations
        return None if places is None else PathFinder.find_spec(name, places)
    except (ImportError, ValueError):
        return None


def _read(name: str) -> _Module | None:
    """The source of a module; ``None`` if it has no source file, as in a namespace package or a notebook."""
    spec = _spec(name)
    if spec is None or spec.loader is None or spec.origin is None:
        return None
    package = name if spec.submodule_search_locations is not None else name.rpartition(".")[0]
    try:
        status = Path(spec.origin).stat()
    except OSError:  # inside an archive
        source = getattr(spec.loader, "get_source", lambda _: None)(name)
        return None if source is None else _parsed(source, package)
    return _of_file(spec.origin, package, (status.st_mtime_ns, status.st_size))


@functools.lru_cache(maxsize=1000)
def _of_file(path: str, package: str, version: tuple[int, int]) -> _Module:
    """Read a file, and read it again only after a change: a search runs in one process for hours."""
    content = Path(path).read_bytes()
    try:
        return _parsed(content, package) if path.endswith(".py") else _Module(_digest(content))
    except (SyntaxError, ValueError):  # written for another version of Python; it cannot be imported here
        return _Module(_digest(content))


def _parsed(source: str | bytes, package: str) -> _Module:
    """Parse a module; its relative imports start from ``package``."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Python versions warn about different things
        tree = _Bare().visit(ast.parse(source))
    imports: set[tuple[str, str | None]] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imports |= {(name, None) for alias in node.names for name in _imported(alias)}
        elif isinstance(node, ast.ImportFrom):
            imports |= {(_base(node, package), alias.name) for alias in node.names}
    bound: Counter[str] = Counter()
    passed_on: dict[str, str] = {}
    exported: tuple[str, ...] = ()
    for node in tree.body:
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            bound.update(alias.asname or alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            bound[node.name] += 1
        else:
            bound.update({each.id for each in ast.walk(node) if isinstance(each, ast.Name)})
            if isinstance(node, ast.Assign) and isinstance(node.value, (ast.List, ast.Tuple)):
                texts = tuple(str(each.value) for each in node.value.elts if isinstance(each, ast.Constant))
                exported = texts if ast.unparse(node.targets[0]) == "__all__" else exported
        if isinstance(node, ast.ImportFrom):
            same = (alias.name for alias in node.names if alias.asname in (None, alias.name))
            passed_on |= dict.fromkeys(same, _base(node, package))
    passed_on = {name: base for name, base in passed_on.items() if bound[name] == 1}
    words: list[str] = []
    _dump(tree, words)
    digest = _digest("\0".join(words).encode()) if tree.body else ""
    return _Module(digest, frozenset(imports), passed_on, frozenset(bound), exported)


def _imported(alias: ast.alias) -> list[str]:
    """``import a.b`` gives access to a and a.b, ``import a.b as c`` to a.b alone."""
    parts = alias.name.split(".")
    whole = [".".join(parts[:count]) for count in range(1, len(parts) + 1)]
    return whole if alias.asname is None else whole[-1:]


def _base(node: ast.ImportFrom, package: str) -> str:
    """The module after ``from``."""
    above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
    return ".".join([*above, *([node.module] if node.module else [])])


class _Bare(ast.NodeTransformer):
    """Removes what affects no result: docstrings, imports for type checkers, error messages."""

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        return None if isinstance(node.value, ast.Constant) else self.generic_visit(node)

    def visit_If(self, node: ast.If) -> ast.AST | None:
        if ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            node.body = []
        self.generic_visit(node)
        return node if node.body or node.orelse else None

    def visit_JoinedStr(self, node: ast.JoinedStr) -> ast.AST:
        # Python 3.12 puts empty strings into f"{a:{b}}", 3.11 does not.
        empty = [part for part in node.values if isinstance(part, ast.Constant) and not part.value]
        node.values = [part for part in node.values if part not in empty]
        return self.generic_visit(node)

    def visit_Raise(self, node: ast.Raise) -> ast.AST:
        if isinstance(node.exc, ast.Call):
            node.exc.args = [
                given
                for given in node.exc.args
                if not isinstance(given, ast.JoinedStr)
                and not (isinstance(given, ast.Constant) and isinstance(given.value, str))
            ]
        return self.generic_visit(node)


def _dump(node: object, words: list[str]) -> None:
    """Like `ast.dump`, but the same for every Python version; newer ones add fields with empty values."""
    if isinstance(node, ast.AST):
        words.append(f"({type(node).__name__}")
        for name, value in ast.iter_fields(node):
            if value is not None and value != [] and name not in ("ctx", "kind", "type_comment"):
                words.append(name)
                _dump(value, words)
        words.append(")")
    elif isinstance(node, list):
        for child in node:
            _dump(child, words)
        words.append("]")
    else:
        words.append(f"{type(node).__name__} {node!a}")


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
