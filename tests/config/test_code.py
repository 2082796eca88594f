"""Digests of the code of a run, with packages that a user might write."""

import itertools
import sys
import types
from collections.abc import Callable

import pytest

from sr_lab.config import code
from sr_lab.errors import ConfigError

NET = """
from torch import nn

{imports}


class Net(nn.Module):
    def forward(self, lr):
        {body}
"""
Write = Callable[..., str]
_numbers = itertools.count()


@pytest.fixture
def package(tmp_path, monkeypatch) -> Write:
    """Write files of a user's package, with ``own`` replaced by its name, and return that name."""
    name = f"own{next(_numbers)}"
    monkeypatch.syspath_prepend(tmp_path)

    def write(place: str = "", **sources: str) -> str:
        if place:
            monkeypatch.syspath_prepend(tmp_path / place)
        for path, source in sources.items():
            file = tmp_path / place / name / (path.replace("__in__", "/") + ".py")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(source.replace("own", name))
        return name

    return write


def net(imports: str, body: str = "return lr") -> str:
    return NET.format(imports=imports, body=body)


BLOCK = "from torch import nn\nact = nn.{act}\nclass Block(nn.Module):\n    width = {width}\n"


def block(act: str = "GELU", width: int = 8) -> str:
    return BLOCK.format(act=act, width=width)


@pytest.mark.parametrize(
    "sources",
    [
        {"net": net("from .blocks import Block")},
        {"net": net("from own.blocks import Block as Other")},
        {"net": net("from own import blocks")},
        {"net": net("from . import blocks as b")},
        {"net": net("import own.blocks")},
        {"net": net("import own.blocks as b")},
        {"net": net("from own.blocks import *")},
        {"net": net("", "from .blocks import Block; return Block()(lr)")},
        {"net": net("try:\n    from .fast import Block\nexcept ImportError:\n    from .blocks import Block")},
        {"net": net("from .other import Block"), "other": "from .blocks import Block"},
        {"net": net("from own import Block"), "__init__": "from .blocks import Block"},
        {"net": net("from own import Renamed"), "__init__": "from .blocks import Block as Renamed"},
        {"net": net("from own import Block"), "__init__": "from .blocks import *"},
        {
            "net": net("from own.more import *"),
            "more__in____init__": "__all__ = ['a']",
            "more__in__a": "import own.blocks",
        },
    ],
    ids=str,
)
def test_a_change_to_a_module_that_a_network_imports_changes_the_digest(package, sources):
    name = package(**sources, blocks=block())
    node = {"_target_": f"{name}.net.Net"}
    before = code.digests(node)
    assert f"{name}.blocks" in before
    package(blocks=block("ReLU"))
    after = code.digests(node)
    assert {module for module in before if before[module] != after[module]} == {f"{name}.blocks"}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (net("import torch"), net("import torch", "return torch.relu(lr)")),
        (net("WIDTH = 8"), net("WIDTH = 9")),
        (net("from torch.nn import GELU as Act"), net("from torch.nn import ReLU as Act")),
        (net("x = -0.0"), net("x = 0.0")),
        (net("x = True"), net("x = 1")),
        (net("x = 'a'"), net("x = b'a'")),
        (net("x = [1, [2]]"), net("x = [1, 2]")),
        (net("x = 1 - (2 - 3)"), net("x = 1 - 2 - 3")),
    ],
)
def test_a_change_to_the_code_changes_the_digest(package, before, after):
    node = {"_target_": f"{package(net=before)}.net.Net"}
    first = code.digests(node)
    package(net=after)
    assert code.digests(node) != first


@pytest.mark.parametrize(
    "after",
    [
        NET.replace("class Net", "# a comment\nclass Net"),
        NET.replace("class Net(nn.Module):", 'class Net(nn.Module):\n    """A network."""\n'),
        NET.replace("(self, lr)", "(\n        self,\n        lr,\n    )"),
        '"""A module."""\n' + NET,
        NET.replace("class Net", "if TYPE_CHECKING:\n    import y\nclass Net"),
        NET.replace("too small: {{lr}}", "is too small, got {{lr.shape}}"),
    ],
)
def test_comments_docstrings_formatting_and_messages_make_no_difference(package, after):
    fill = {"imports": "from typing import TYPE_CHECKING", "body": "raise ValueError(f'too small: {lr}')"}
    before = NET.format(**fill)
    after = after.format(**fill)
    node = {"_target_": f"{package(net=before)}.net.Net"}
    first = code.digests(node)
    package(net=after.replace("too small: {lr}", "is too small, got {lr.shape}"))
    assert code.digests(node) == first


def test_a_network_does_not_depend_on_its_neighbours(package):
    """``__init__.py`` and ``zoo.py`` import every network."""
    name = package(
        __init__="from .zoo import Net, Other\n__version__ = '1'",
        zoo="from .net import Net\nfrom .other import Other",
        net=net("from own import blocks"),
        other=net("", "return lr * 2").replace("Net", "Other"),
        blocks=block(),
    )
    found = code.digests({"_target_": f"{name}.Net"})
    assert list(found) == [f"{name}.blocks", f"{name}.net"]


def test_a_definition_in_an_init_file_counts_for_the_modules_that_import_it(package):
    name = package(__init__="WIDTH = 8", net=net("from own import WIDTH"))
    before = code.digests({"_target_": f"{name}.net.Net"})
    package(__init__="WIDTH = 9")
    assert code.digests({"_target_": f"{name}.net.Net"}) != before


def test_a_class_that_a_function_creates_depends_on_the_module_of_the_call(package):
    blocks = "def make(width):\n    class Net:\n        size = width\n    return Net\n"
    name = package(blocks=blocks, zoo="from .blocks import make\nNet = make(8)")
    assert set(code.digests({"_target_": f"{name}.zoo.Net"})) == {f"{name}.blocks", f"{name}.zoo"}


def test_descriptions_are_found_at_any_depth(package):
    name = package(net=net(""), layer=net(""), loss=net(""))
    nodes = [
        {"_target_": f"{name}.net.Net", "layers": [{"a": {"_target_": f"{name}.layer.Net"}}]},
        {"parts": {"_target_": "torch.nn.L1Loss", "inner": {"_target_": f"{name}.loss.Net"}}},
    ]
    assert set(code.digests(nodes)) == {f"{name}.{module}" for module in ("layer", "loss", "net")}


def test_a_single_file_depends_on_the_files_next_to_it(package, tmp_path):
    name = package()
    (tmp_path / f"{name}.py").write_text(net(f"import {name}_blocks"))
    (tmp_path / f"{name}_blocks.py").write_text(block())
    assert set(code.digests({"_target_": f"{name}.Net"})) == {name, f"{name}_blocks"}


def test_an_installed_package_counts_if_the_user_trusts_it(package):
    name = package("lib/site-packages", net=net("import numpy, os, torch"))
    node = {"_target_": f"{name}.net.Net"}
    assert code.digests(node) == {}
    assert set(code.digests(node, [name])) == {f"{name}.net"}


def test_our_networks_depend_only_on_the_code_that_computes_them():
    found = code.digests(
        [
            {"_target_": "sr_lab.models.osffnet.OSFFNet"},
            {"_target_": "sr_lab.datasets.folder.FolderDataset"},
            {"_target_": "torch.optim.Adam"},
        ]
    )
    assert {"sr_lab.models.osffnet", "sr_lab.layers.osff", "sr_lab.datasets.sampling"} <= set(found)
    rooms = {module.split(".")[1] for module in found}
    assert rooms <= {"models", "layers", "upsamplers", "ops", "datasets"}
    assert not {"sr_lab.layers.transformer", "sr_lab.models.imdn"} & set(found)


def test_a_class_without_a_file_is_refused(monkeypatch):
    notebook = types.ModuleType("notebook_cell")
    notebook.Net = type("Net", (), {"__module__": "notebook_cell"})
    monkeypatch.setitem(sys.modules, "notebook_cell", notebook)
    with pytest.raises(ConfigError, match=r"notebook_cell.Net: is not defined in a file.*put the class into"):
        code.digests({"_target_": "notebook_cell.Net"})


def test_a_compiled_module_is_compared_as_a_file(package, tmp_path):
    name = package(net=net("", "from . import fast"))
    library = tmp_path / name / "fast.so"
    found = []
    for content in (b"one", b"two"):
        library.write_bytes(content)
        found.append(code.digests({"_target_": f"{name}.net.Net"}))
    assert found[0] != found[1]


# Python 3.11, 3.12 and 3.13 give the same digest. If it changed, no run on disk would be found again.
SOURCE = '''
"""Every kind of statement whose tree has changed between versions of Python."""
from __future__ import annotations
import torch


@torch.no_grad()
async def load(path: str, /, *rest, scale: int = 2, **more) -> None:
    """Text."""
    text = f"{path!r:>{scale}.{2}} {rest=}" "\\d" 'ü'
    async with path as f, f:
        yield text, -1e-5, 1_000, 3j, None, ..., b"\\x00", {**more}, {*rest}
    match rest:
        case [1, *_] | {"a": True} if scale > 1:
            raise ValueError("text") from None
        case torch.Tensor(shape=(x, y)):
            return
    try:
        global z
        z = lambda a=1: [i for i in a if i][::2]
    except* OSError as error:
        del error
    else:
        pass


class Net(torch.nn.Module): ...
'''


def test_the_digest_is_the_same_for_every_version_of_python():
    read = code._parsed(SOURCE, "own")
    assert read.digest == "94f4a92d41452a45"
