"""A class as its source describes it, read as text: nothing is imported, not even torch."""

import ast
import functools
import inspect
import re
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.machinery import PathFinder
from pathlib import Path

from sr_lab import files

_MAX_BYTES = 2**21  # the largest module of torch that is read here has 90 KiB
_SECTION = re.compile(r"(Args|Shape|Returns|Raises|Note|Example|Examples):+")
_ARGUMENT = re.compile(r"(\*{0,2}\w+)\s*(\([^)]*\))?:(?:\s+|$)(.*)")


@dataclass(frozen=True)
class Argument:
    """An argument of a class or function."""

    name: str
    default: str | None  # as Python prints it; ``None`` if the argument is required
    meaning: str = ""  # its line of the docstring
    choices: tuple[str, ...] = ()  # its allowed values, if its type lists them


@dataclass(frozen=True)
class Source:
    """A class or function as its source describes it."""

    path: str  # dotted, as a ``_target_`` names it
    file: Path
    node: ast.ClassDef | ast.FunctionDef
    module_doc: str
    summary: str  # first paragraph of the docstring
    text: tuple[str, ...]  # other paragraphs before the sections
    sections: Mapping[str, str]  # the rest of the docstring, by heading
    arguments: tuple[Argument, ...]
    constructor: ast.FunctionDef | None  # the function that takes the arguments


def read(path: str) -> Source | None:
    """The source of a class or function, given its dotted path; ``None`` if it cannot be found."""
    module, _, name = path.rpartition(".")
    found = _definition(module, name)
    if found is None:
        return None
    module_name, node = found
    tree = _tree(module_name)
    assert tree is not None
    function = _constructor(module_name, node)
    doc = _docstring(tree, node)
    inner = ast.get_docstring(function[1]) if function is not None and function[1] is not node else None
    sections = _sections(doc)
    if inner:
        sections = {**_sections(inner), **{key: value for key, value in sections.items() if value}}
    top = [_joined(part) for part in sections.pop("", "").split("\n\n") if part.strip()]
    described = {**_inherited(module_name, node), **_described(sections.get("Args", ""))}
    arguments = () if function is None else tuple(_arguments(*function, described))
    return Source(
        path=path,
        file=_file(module_name) or Path(),
        node=node,
        module_doc=ast.get_docstring(tree) or "",
        summary=top[0] if top else "",
        text=tuple(top[1:]),
        sections=sections,
        arguments=arguments,
        constructor=None if function is None else function[1],
    )


def place_of(name: str) -> Path | None:
    """The folder of a package or the file of a module, found without importing anything."""
    parts = name.split(".")
    if not all(part.isidentifier() for part in parts):
        return None
    spec = PathFinder.find_spec(parts[0])
    if spec is None:
        return None
    roots = [Path(root) for root in spec.submodule_search_locations or ()]
    if len(parts) == 1 and not roots:
        return Path(spec.origin) if spec.origin else None
    for root in roots:
        folder = root.joinpath(*parts[1:])
        for candidate in (folder, folder.with_suffix(".py")):
            if candidate.exists():
                return candidate
    return None


def _file(module: str) -> Path | None:
    place = place_of(module)
    if place is not None and place.is_dir():
        place = place / "__init__.py"
    return place if place is not None and place.suffix == ".py" and place.is_file() else None


@functools.lru_cache(maxsize=64)
def _tree(module: str) -> ast.Module | None:
    file = _file(module)
    if file is None:
        return None
    try:
        return ast.parse(files.read_text(file, max_bytes=_MAX_BYTES))
    except (OSError, ValueError, SyntaxError, RecursionError, MemoryError):
        return None


def _definition(
    module: str, name: str, seen: frozenset[tuple[str, str]] = frozenset()
) -> tuple[str, ast.ClassDef | ast.FunctionDef] | None:
    """The module that defines a name, even if the given module only re-exports it, and the definition."""
    tree = _tree(module)
    if tree is None or (module, name) in seen or len(seen) > 20:
        return None
    seen |= {(module, name)}
    for node in tree.body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and node.name == name:
            return module, node
    for line in [part for part in ast.walk(tree) if isinstance(part, ast.ImportFrom)]:
        for alias in line.names:
            if alias.name == "*" or (alias.asname or alias.name) == name:
                imported = name if alias.name == "*" else alias.name
                found = _definition(_base(line, module), imported, seen)
                if found is not None:
                    return found
    return None


def _base(node: ast.ImportFrom, module: str) -> str:
    """The module after ``from``."""
    file = _file(module)
    inside = file is not None and file.name == "__init__.py"
    above = module.split(".")
    above = above[: len(above) - node.level + inside] if node.level else []
    return ".".join([*above, *([node.module] if node.module else [])])


def _constructor(
    module: str, node: ast.ClassDef | ast.FunctionDef, depth: int = 0
) -> tuple[str, ast.FunctionDef] | None:
    """The function whose arguments a class takes (it may be inherited), and the function's module."""
    if isinstance(node, ast.FunctionDef):
        return module, node
    for child in node.body:
        if isinstance(child, ast.FunctionDef) and child.name == "__init__":
            return module, child
    for base in node.bases:
        if isinstance(base, ast.Name) and depth < 10:
            found = _definition(module, base.id)
            if found is not None and (inherited := _constructor(*found, depth=depth + 1)) is not None:
                return inherited
    return None


def _inherited(module: str, node: ast.ClassDef | ast.FunctionDef, depth: int = 0) -> dict[str, str]:
    """The meanings of arguments that the base classes describe."""
    meanings: dict[str, str] = {}
    for base in node.bases if isinstance(node, ast.ClassDef) and depth < 10 else ():
        if isinstance(base, ast.Name) and (found := _definition(module, base.id)) is not None:
            tree = _tree(found[0])
            assert tree is not None
            meanings |= _inherited(*found, depth=depth + 1)
            meanings |= _described(_sections(_docstring(tree, found[1])).get("Args", ""))
    return meanings


def _docstring(tree: ast.Module, node: ast.ClassDef | ast.FunctionDef) -> str:
    """The docstring; for some classes, torch assigns it to ``__doc__``."""
    if (own := ast.get_docstring(node)) is not None:
        return own
    for statement in tree.body:
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == f"{node.name}.__doc__":
            for part in ast.walk(statement.value):
                if isinstance(part, ast.Constant) and isinstance(part.value, str):
                    return inspect.cleandoc(part.value)
    return ""


def _sections(doc: str) -> dict[str, str]:
    """The text of each section by its heading; the text before the first section has an empty heading."""
    found: dict[str, list[str]] = {"": []}
    heading = ""
    for line in doc.splitlines():
        if (match := _SECTION.fullmatch(line.strip())) and not line.startswith(" "):
            heading = match[1]
            found.setdefault(heading, [])
        else:
            heading = heading if not line or line.startswith(" ") else ""  # a section is indented
            found[heading].append(line)
    return {key: textwrap.dedent("\n".join(lines)).strip() for key, lines in found.items()}


def _described(section: str) -> dict[str, str]:
    """The meaning of each argument in a section of a docstring."""
    found: dict[str, list[str]] = {}
    name = ""
    for line in section.splitlines():
        if (match := _ARGUMENT.fullmatch(line)) is not None:
            name = match[1].lstrip("*")
            found[name] = [match[3]]
        elif name and line.startswith(" "):
            found[name].append(line)
    return {key: _joined("\n".join(lines)) for key, lines in found.items()}


def _arguments(module: str, function: ast.FunctionDef, meanings: Mapping[str, str]) -> Iterator[Argument]:
    given = function.args
    positional = [*given.posonlyargs, *given.args]
    defaults = [None] * (len(positional) - len(given.defaults)) + list(given.defaults)
    if positional and positional[0].arg in ("self", "cls"):
        del positional[0], defaults[0]
    pairs = [*zip(positional, defaults, strict=True), *zip(given.kwonlyargs, given.kw_defaults, strict=True)]
    for argument, default in pairs:
        text = None if default is None else _value(module, default)
        yield Argument(argument.arg, text, meanings.get(argument.arg, ""), _choices(argument.annotation))


def _value(module: str, node: ast.expr) -> str:
    """A default as Python prints it; a constant of the module is replaced by its value."""
    if isinstance(node, ast.Name) and (tree := _tree(module)) is not None:
        for line in tree.body:
            if not isinstance(line, (ast.Assign, ast.AnnAssign)) or line.value is None:
                continue
            target = line.targets[0] if isinstance(line, ast.Assign) else line.target
            if isinstance(target, ast.Name) and target.id == node.id and line.value is not node:
                return _value(module, line.value)
    try:
        return repr(ast.literal_eval(node))
    except (ValueError, TypeError, RecursionError):
        return ast.unparse(node)


def _choices(annotation: ast.expr | None) -> tuple[str, ...]:
    """The values that a ``Literal`` lists."""
    for part in ast.walk(annotation) if annotation is not None else ():
        if isinstance(part, ast.Subscript) and ast.unparse(part.value).endswith("Literal"):
            listed = part.slice.elts if isinstance(part.slice, ast.Tuple) else [part.slice]
            return tuple(str(item.value) for item in listed if isinstance(item, ast.Constant))
    return ()


def _joined(text: str) -> str:
    """A paragraph on one line, without the marks of reStructuredText."""
    text = re.sub(r":(?:class|func|meth|math|attr|ref|mod|paramref):`~?([^`]*)`", r"\1", text)
    return " ".join(text.replace("`", "").split())


def paragraphs(text: str) -> tuple[str, ...]:
    """The paragraphs of a section, each on one line."""
    return tuple(_joined(part) for part in text.split("\n\n") if part.strip())
