"""What the page of a network shows next to its arguments: tails, strategies, cost, PSNR, weights."""

import ast
from collections.abc import Iterator, Mapping, Sequence

from sr_lab import files
from sr_lab.help import layout
from sr_lab.help.source import Source
from sr_lab.reporting import counts

_SCALES = (2, 3, 4)
_SETS = ("Set5", "Set14", "B100", "Urban100", "Manga109")


def upsamplers(source: Source, options: Sequence[str]) -> tuple[str, ...]:
    """The options of ``upsampler=`` that a network takes; ``native`` alone if its tail cannot be replaced."""
    named = any(argument.name == "upsampler" for argument in source.arguments)
    if not named or any(map(_refuses, _body(source))):
        return ("native",)
    return ("native", *(name for name in options if name != "native"))


def _refuses(line: ast.AST) -> bool:
    """Whether a statement calls `sr_lab.upsamplers.native.native_only`."""
    value = line.value if isinstance(line, ast.Expr) else None
    return isinstance(value, ast.Call) and ast.unparse(value.func) == "native_only"


def strategies(source: Source, options: Sequence[str]) -> tuple[str, ...]:
    """The options of ``strategy=`` that a network takes, according to the parts that its class builds."""
    parts = dict(_assigned(source))
    body = parts.get("self.body")
    is_empty = isinstance(body, ast.Call) and not body.args and not body.keywords
    if not {"self.head", "self.body", "self.tail"} <= parts.keys() or is_empty:
        return ("none",)
    has_units = not any(
        isinstance(line, ast.AnnAssign)
        and ast.unparse(line.target) == "residual_units"
        and line.value is not None
        and ast.unparse(line.value) == "()"
        for line in source.node.body
    )
    return ("none", *(name for name in options if name != "none" and (has_units or "cwss" not in name)))


def _assigned(source: Source) -> Iterator[tuple[str, ast.expr]]:
    """Every name that the constructor assigns, as written, and what the statement assigns to it."""
    for line in _statements(source):
        for target in line.targets if isinstance(line, ast.Assign) else ():
            for part in ast.walk(target):
                if isinstance(part, ast.Attribute) and isinstance(line, ast.Assign):
                    yield ast.unparse(part), line.value


def _body(source: Source) -> list[ast.stmt]:
    """The statements of the constructor, without those inside ``if`` and loops."""
    return source.constructor.body if source.constructor is not None else []


def _statements(source: Source) -> Iterator[ast.AST]:
    """Every statement of the constructor."""
    for line in _body(source):
        yield from ast.walk(line)


def takes_any_tail(source: Source) -> bool:
    """Whether every form of a network takes every tail."""
    return len(upsamplers(source, ("native", "other"))) > 1 and not any(map(_refuses, _statements(source)))


def takes(source: Source, options: Mapping[str, Sequence[str]]) -> list[tuple[str, str]]:
    """Rows with the tails and strategies that a network takes."""
    tails = ", ".join(upsamplers(source, options.get("upsampler", ())))
    if "," in tails and not takes_any_tail(source):
        tails += "; one form of the network takes only native, see the arguments"
    applied = strategies(source, options.get("strategy", ()))
    unknown = applied == ("none",) and not source.path.startswith(
        "sr_lab."
    )  # a base class may build the parts
    return [("upsampler=", tails), *([] if unknown else [("strategy=", ", ".join(applied))])]


def cost(name: str) -> list[str]:
    """A table of our counts; empty if the package has none for this network."""
    rows = [["scale", "parameters [K]", "multiply-adds [G]"]]
    for scale in _SCALES:
        if (size := counts.size(name, scale)) is not None:
            rows.append([f"x{scale}", f"{size.num_params / 1e3:.1f}", f"{size.multi_adds / 1e9:.1f}"])
    return layout.columns(rows) if len(rows) > 1 else []


def printed(name: str) -> list[str]:
    """A table of the PSNR that most papers print for a network; empty if none does."""
    rows = [["PSNR [dB]", *_SETS]]
    for scale in _SCALES:
        values = [counts.psnr(name, scale, set_name) for set_name in _SETS]
        if any(value is not None for value in values):
            rows.append([f"x{scale}", *("-" if value is None else f"{value:.2f}" for value in values)])
    return layout.columns(rows) if len(rows) > 1 else []


def origin(source: Source) -> str:
    """Whose code the network follows, according to the head of its file."""
    return source.module_doc.partition("\n\n")[2]


def opens_weights(source: Source) -> bool:
    """Whether the network's file lists the key names of the authors' checkpoints."""
    return "\nOFFICIAL_NAMES" in files.read_text(source.file)
