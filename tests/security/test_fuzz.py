"""Of thousands of mutated inputs, none hangs or crashes a reader or is silently accepted.

``make test-slow`` tries 5,000 mutants, the default suite 200, and ``SR_LAB_CHAOS=1`` a million.
"""

import io
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
import yaml
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from PIL import Image

from sr_lab import files
from sr_lab.checkpoints.reading import open_checkpoint
from sr_lab.checkpoints.weights import load_weights
from sr_lab.datasets.images import read_image
from sr_lab.errors import SRLabError
from sr_lab.reporting.runs import read_run
from sr_lab.reporting.settings import flat
from sr_lab.run_folder import RunFolder, read_index
from tests.security import hostile
from tests.security.judged import judged

KINDS = ("PNG", "JPEG", "TIFF", "GIF", "BMP", "WEBP")
IMAGES = {kind: hostile.picture(kind, size=(31, 22)) for kind in KINDS}


def network() -> torch.nn.Module:
    return torch.nn.Linear(3, 2)


def saved() -> bytes:
    content = io.BytesIO()
    torch.save({"state_dict": network().state_dict(), "epoch": 3}, content)
    return content.getvalue()


SEEDS: dict[str, tuple[bytes, ...]] = {
    "image": tuple(IMAGES.values()),
    "safetensors": (safetensors.torch.save(network().state_dict()),),
    "ckpt": (saved(),),
    "yaml": (
        b"model: {_target_: a.B, n: 3, l: [1, 2.5, null, true]}\nscale: 4\nseed: 0\nx: &x {a: 1}\ny: *x\n",
    ),
    "csv": (b"step,time,train/loss,val/psnr_y\n1,100.5,0.5,\n2,101,0.25,30.5\n3,102,1e-3,\n",),
    "json": (
        json.dumps(
            {
                "run": "a",
                "scale": 4,
                "seed": 1,
                "test/Set5/psnr_y": 30.5,
                "row": "b",
                "images": [{"set_name": "Set5", "image": "x", "psnr_y": 30.5, "ssim_y": 0.9}],
            }
        ).encode(),
        json.dumps({"version": 1, "jobs": [{"folder": "a", "label": "b", "overrides": ["seed=1"]}]}).encode(),
    ),
}
ODD = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 2**31 - 1, 2**32 - 1)
TOKENS = (
    b"",
    b"{",
    b"[",
    b'"',
    b",",
    b"\n",
    b"\0",
    b"\xff",
    b"nan",
    b"1e999",
    b"-1",
    b"*x",
    b"&x",
    b"true",
    b"\x1b[2J",
    b"=1+1",
)


@st.composite
def mutated(draw: st.DrawFn, kind: str) -> bytes:
    """A seed with a few changes: flipped bits, edge-case numbers, removed or repeated parts, odd words."""
    content = bytearray(draw(st.sampled_from(SEEDS[kind])))
    for _ in range(draw(st.integers(1, 6))):
        if not content:
            break
        place = draw(st.integers(0, len(content) - 1))
        length = draw(st.integers(1, 40))
        way = draw(st.sampled_from(["bit", "number", "cut", "double", "leave out", "word", "swap"]))
        if way == "bit":
            content[place] ^= 1 << draw(st.integers(0, 7))
        elif way == "number":
            size = draw(st.sampled_from([1, 2, 4]))
            value = draw(st.sampled_from(ODD)) % 256**size
            content[place : place + size] = value.to_bytes(size, draw(st.sampled_from(["little", "big"])))
        elif way == "cut":
            del content[place:]
        elif way == "double":
            content[place:place] = content[place : place + length] * draw(st.sampled_from([1, 2, 50]))
        elif way == "leave out":
            del content[place : place + length]
        elif way == "word":
            content[place : place + draw(st.integers(0, 3))] = draw(st.sampled_from(TOKENS))
        else:
            other = draw(st.integers(0, len(content) - 1))
            content[place : place + length] = content[other : other + length]
    return bytes(content)


def an_image(path: Path) -> None:
    pixels = read_image(path)
    assert pixels.dtype == np.uint8
    assert pixels.ndim == 3
    assert pixels.shape[2] == 3
    assert min(pixels.shape) >= 1
    with Image.open(path) as image:  # the declared size, rotated or not
        assert sorted(image.size) == sorted(pixels.shape[:2])


def a_checkpoint(path: Path) -> None:
    model = network()
    checkpoint = open_checkpoint(str(path))
    load_weights(model, checkpoint)
    for value in model.state_dict().values():
        assert torch.isfinite(value).all()


def a_yaml(path: Path) -> None:
    try:
        text = files.read_text(path)
        files.check_yaml(text)
        ours = files.read_yaml(path)
    except ValueError:
        return
    assert json.dumps(ours) is not None or ours == yaml.safe_load(text)
    folder = path.parent / "run-0"
    folder.mkdir(exist_ok=True)
    (folder / "config.yaml").write_bytes(path.read_bytes())
    shown(folder)


def shown(folder: Path) -> None:
    """Check that a report reads only numbers, and strings without control characters, from a run."""
    run = read_run(folder)
    texts = [run.name, run.problem, *run.sets, *flat(run), *flat(run).values()]
    for text in texts:
        text.encode()
        assert not set(text) & set(map(chr, [*range(9), *range(11, 32), 127]))
    value = run.number("test/Set5/psnr_y")
    assert value is None or isinstance(value, float)
    for row in run.record:
        assert all(np.isfinite(list(row.values())))
    RunFolder(folder).progress()
    RunFolder(folder).validations()
    assert RunFolder(folder).state() is not None


def a_record(path: Path) -> None:
    folder = path.parent / "run-0"
    folder.mkdir(exist_ok=True)
    (folder / "metrics.csv").write_bytes(path.read_bytes())
    shown(folder)


def a_result(path: Path) -> None:
    folder = path.parent / "run-0"
    folder.mkdir(exist_ok=True)
    for file in (folder / "metrics.json", folder.parent / "sweep.json"):
        file.write_bytes(path.read_bytes())
    read_index(folder.parent)
    shown(folder)


READERS: dict[str, Callable[[Path], None]] = {
    "image": an_image,
    "safetensors": a_checkpoint,
    "ckpt": a_checkpoint,
    "yaml": a_yaml,
    "csv": a_record,
    "json": a_result,
}


def batch(kind: str, folder: Path, count: int, start: int) -> None:
    """Read ``count`` mutants of a kind; an unexpected error fails the test and shows the bytes."""
    path = folder / {"safetensors": "a.safetensors", "ckpt": "a.ckpt"}.get(kind, "a.png")
    (folder / "run-0").mkdir(exist_ok=True)

    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        print_blob=False,
    )
    @seed(start)
    @given(mutated(kind))
    def examine(content: bytes) -> None:
        path.write_bytes(content)
        try:
            READERS[kind](path)
        except SRLabError as error:
            assert "\n" not in str(error), content  # noqa: PT017

    examine()


def run(kind: str, folder: Path, count: int) -> None:
    """Read a hundred mutants per process with little memory, so a crash or a hang costs only one process."""
    for start in range(0, count, 100):
        result = judged(lambda start=start: batch(kind, folder, min(100, count - start), start), seconds=60)
        assert result.odd == "", (kind, start)
        assert result.error == ""


SHARE = {"image": 0.4, "safetensors": 0.12, "ckpt": 0.12, "yaml": 0.12, "csv": 0.12, "json": 0.12}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", SEEDS)
def test_no_mutant_hangs_or_crashes_a_reader_or_is_silently_accepted(tmp_path, kind):
    run(kind, tmp_path, int(200 * SHARE[kind]))


@pytest.mark.slow
@pytest.mark.timeout(0)
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", SEEDS)
def test_thousands_of_mutants_are_read_safely_too(tmp_path, kind):
    run(kind, tmp_path, int((1_000_000 if os.environ.get("SR_LAB_CHAOS") else 5_000) * SHARE[kind]))


@pytest.mark.parametrize("kind", SEEDS)
def test_the_seeds_can_be_read(tmp_path, kind):
    """Otherwise, code that refused every input would pass the tests above."""
    for number, content in enumerate(SEEDS[kind][:1] if kind == "json" else SEEDS[kind]):
        path = tmp_path / f"{number}.{'png' if kind == 'image' else kind}"
        path.write_bytes(content)
        if kind == "json":
            assert read_text_of(path)["scale"] == 4
        else:
            READERS[kind](path)


def read_text_of(path: Path) -> dict[str, object]:
    found = files.read_json(path)
    assert isinstance(found, dict)
    return found
