"""The memory of ``sr_lab.upscale`` does not grow with the image, apart from its input and output."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytestmark = pytest.mark.slow

# Peak bytes of a process that upscales an image by 4, without Pillow's memory for the two images.
PROGRAM = """
import resource, sys, time
import numpy as np
from PIL import Image
import sr_lab
name, height, width = sys.argv[1], *map(int, sys.argv[2:])
pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
image, started = Image.fromarray(pixels), time.perf_counter()
sr = sr_lab.upscale(image, sr_lab.load(name, scale=4))
assert sr.size == (4 * width, 4 * height)
peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(peak - 4 * height * width - 4 * 16 * height * width)
seconds = time.perf_counter() - started
print(f"{name} {height}x{width}: {peak / 2**30:.2f} GiB in {seconds:.1f} s", file=sys.stderr)
"""

# Peak bytes of a process that upscales only the largest piece of such an image.
PIECE = """
import resource, sys
import torch
import sr_lab
from sr_lab.inference.tiling import Tiled
from sr_lab.inference.upscaling import upscale_batch
from sr_lab.layers.folding import for_inference
name, height, width = sys.argv[1], *map(int, sys.argv[2:])
network = sr_lab.load(name, scale=4)
tiled = Tiled(for_inference(network), like=network)
read = tiled.pieces(height, width)[0].read  # all have the same size, except that the last may be smaller
rows, columns = (len(range(size)[cut]) for size, cut in zip((height, width), read))
upscale_batch(tiled.network, torch.rand(1, 3, rows, columns))
peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(peak)
print(f"{name}: {peak / 2**30:.2f} GiB for {rows}x{columns} of {height}x{width}", file=sys.stderr)
"""

MODELS = sorted(path.stem for path in (Path(__file__).parents[2] / "conf/model").glob("*.yaml"))


def peak_without_the_images(name, height, width, program=PROGRAM):
    command = [sys.executable, "-W", "ignore", "-c", program, name, str(height), str(width)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return int(done.stdout)


@pytest.mark.parametrize("name", MODELS)
def test_a_piece_of_four_megapixels_takes_less_than_four_gibibytes(name):
    assert peak_without_the_images(name, 2000, 2000, program=PIECE) < 4 * 2**30


# All models on whole images would take hours. These models are the cheapest, or need the most memory.
@pytest.mark.parametrize(
    "name", ["fsrcnn", "ecbsr_m4c16", "imdn_rtc", "safmn", "lapar_c", "shufflemixer_tiny", "imdn", "osffnet"]
)
def test_a_megapixel_takes_less_than_four_gibibytes(name):
    assert peak_without_the_images(name, 1000, 1000) < 4 * 2**30


@pytest.mark.parametrize("name", ["fsrcnn", "ecbsr_m4c16"])
def test_four_megapixels_take_less_than_four_gibibytes(name):
    assert peak_without_the_images(name, 2000, 2000) < 4 * 2**30


def test_twelve_megapixels_take_less_than_four_gibibytes():
    assert peak_without_the_images("ecbsr_m4c16", 3000, 4000) < 4 * 2**30


# Peak bytes of the whole command on an image from a file; the weights are random.
COMMAND = """
import resource, sys
from pathlib import Path
import torch
from sr_lab.checkpoints.catalogue import Entry
from sr_lab.tasks import upscale
from tests.composing import compose
name, source, output = sys.argv[1:]
torch.save(Entry(name, 2).build().state_dict(), f"{output}.pth")
words = [f"model={name}", "scale=2", f"ckpt={output}.pth", "trainer=cpu"]
words += [f"input={source}", f"output={output}"]
upscale.run(compose("task=upscale", *words), Path(output), words)
print(1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.timeout(3600)
def test_a_panorama_of_a_hundred_megapixels_takes_less_than_four_gibibytes(tmp_path):
    height, width = 5000, 20_000
    rows = (np.arange(height)[:, None] // 8 + np.arange(width)[None] // 8).astype(np.uint8)
    Image.fromarray(np.dstack([rows, rows // 2, 255 - rows])).save(tmp_path / "wide.png", compress_level=1)
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-c",
        COMMAND,
        "ecbsr_m4c16",
        tmp_path / "wide.png",
        tmp_path / "big",
    ]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    peak = int(done.stdout.splitlines()[-1])
    print(f"{peak / 2**30:.2f} GiB", file=sys.stderr)  # noqa: T201
    with Image.open(tmp_path / "big" / "wide_x2.png") as image:
        assert image.size == (2 * width, 2 * height)
    assert peak < 4 * 2**30
