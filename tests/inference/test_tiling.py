import math
import statistics
import types

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import sr_lab
from sr_lab.checkpoints.catalogue import Entry
from sr_lab.errors import ConfigError
from sr_lab.inference import tiling
from sr_lab.inference.footprint import reach
from sr_lab.inference.tiling import Tiled
from sr_lab.layers.network import num_image_ch
from sr_lab.ops.complexity import largest_result, peak_memory


class Chain(nn.Module):
    """Convolutions with a known receptive field, followed by nearest-neighbour upsampling."""

    colour = "rgb"
    scale = 2

    def __init__(self, *sizes, stride=1, pool=False):
        super().__init__()
        self.convs = nn.Sequential(*(nn.Conv2d(3, 3, size, padding=size // 2) for size in sizes))
        self.stride = stride
        self.pool = pool

    def forward(self, lr):
        feat = self.convs(lr)
        if self.pool:
            feat = feat * feat.mean((2, 3), keepdim=True)
        if self.stride > 1:
            feat = F.interpolate(feat[..., :: self.stride, :: self.stride], scale_factor=self.stride)
            feat = feat[..., : lr.shape[2], : lr.shape[3]]
        return F.interpolate(feat, scale_factor=2)


def built(name, scale=2, **settings):
    torch.manual_seed(0)
    return Entry(name, scale).build(**settings).eval()


@torch.no_grad()
def difference(network, tiled, height, width):
    lr = torch.rand(1, num_image_ch(network), height, width)
    return (network(lr) - tiled(lr)).abs().max().item()


@pytest.mark.parametrize("name", ["fsrcnn", "span", "pan", "carn_m", "lapar_c", "ecbsr_m4c16"])
def test_tiles_of_a_local_network_equal_the_whole_image(name):
    network = built(name)
    tiled = Tiled(network, tile=81)
    assert len(tiled.pieces(101, 87)) >= 4
    assert difference(network, tiled, 101, 87) < 1e-5
    assert tiled.note.endswith("; equal to the whole image")


def test_nearly_square_tiles_equal_the_whole_image():
    network = Chain(3, 3)
    tiled = Tiled(network, memory=700_000)
    assert len(tiled.pieces(170, 131)) >= 4
    assert difference(network, tiled, 170, 131) < 1e-6


def test_tiles_of_a_strided_network_are_aligned():
    """Tiles start at a multiple of the stride, so that few values differ."""
    network = Chain(3, 3, stride=4)
    tiled = Tiled(network, tile=96)
    assert difference(network, tiled, 150, 131) < 1e-6
    assert "; not equal" in tiled.note


def test_a_note_says_that_tiles_of_a_network_that_pools_differ_from_the_whole_image():
    network = built("imdn", num_feat=16, num_block=2)
    tiled = Tiled(network, tile=96)
    assert 1e-7 < difference(network, tiled, 150, 100) < 0.1
    assert tiled.note.startswith("100x150 pixels in tiles of 96x96, overlapping by 24; not equal")


def test_an_image_that_fits_into_memory_is_not_tiled():
    tiled = Tiled(built("imdn"))
    assert len(tiled.pieces(300, 200)) == 1
    assert tiled.note is None


def test_tile_none_never_tiles_an_image_however_much_memory_it_needs():
    assert len(Tiled(built("imdn"), tile="none").pieces(9000, 9000)) == 1


@pytest.mark.parametrize(
    ("name", "size"), [("span", (97, 240)), ("span", (300, 100)), ("span", (211, 223)), ("imdn", (211, 223))]
)
def test_tiles_fit_into_the_available_memory(name, size):
    network = built(name, num_feat=16)
    per_pixel = peak_memory(network, scale=2, hr_size=(200, 200)) / 100**2
    tiled = Tiled(network, memory=int(per_pixel * 140 * 140))
    pieces = tiled.pieces(*size)
    assert len(pieces) > 1
    read = {torch.empty(size)[piece.read].shape for piece in pieces}
    for height, width in read:  # the estimates differ slightly
        taken = peak_memory(network, scale=2, hr_size=(2 * width, 2 * height))
        assert taken < 1.1 * tiled.memory


def test_tiles_take_half_of_the_free_gpu_memory(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (40 * 2**30, 80 * 2**30))
    network = built("imdn", num_feat=16)
    weight = types.SimpleNamespace(device=torch.device("cuda:0"))
    monkeypatch.setattr(network, "parameters", lambda: iter([weight]))
    assert Tiled(network).memory == 20 * 2**30


def side_of_a_tile(network):
    (rows, columns), *_ = (piece.read for piece in Tiled(network).pieces(4000, 4000))
    return max(rows.stop - rows.start, columns.stop - columns.start)


@pytest.mark.parametrize(("name", "scale"), [("imdn_rtc", 2), ("fsrcnn", 2), ("fsrcnn", 4), ("srcnn", 2)])
def test_results_of_a_tile_on_a_cpu_are_small_enough_for_their_memory_to_be_used_again(name, scale):
    network = built(name, scale)
    side = side_of_a_tile(network)
    assert largest_result(network, scale=scale, hr_size=(scale * side,) * 2) < 32 * 2**20
    assert math.prod((side - 2 * reach(network),) * 2) * 1.25 >= side**2  # the overlap costs little


@pytest.mark.parametrize("name", ["carn_m", "span", "vdsr"])
def test_tiles_of_a_cpu_stay_large_if_the_overlap_of_smaller_tiles_would_cost_more(name):
    network = built(name)
    assert largest_result(network, scale=2, hr_size=(2 * side_of_a_tile(network),) * 2) > 32 * 2**20


def test_tiles_on_a_gpu_are_as_large_as_its_memory_allows(monkeypatch):
    network = built("imdn_rtc")
    on_the_cpu = side_of_a_tile(network)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (4 * 2**30, 8 * 2**30))
    monkeypatch.setattr(Tiled, "_device", torch.device("cuda:0"))
    assert side_of_a_tile(network) > 1.5 * on_the_cpu


def test_every_pixel_is_written_once():
    tiled = Tiled(built("span", num_feat=16), tile=70)
    written = np.zeros((2 * 171, 2 * 133), int)
    for piece in tiled.pieces(171, 133):
        written[piece.write] += 1
    assert (written == 1).all()


def test_a_network_with_attention_over_the_image_gets_small_tiles():
    """The cost of attention grows with the square of the number of pixels in a tile."""
    pieces = Tiled(built("lbnet")).pieces(1500, 1500)
    assert all(piece.read[0].stop - piece.read[0].start <= 144 for piece in pieces)


SIZES = [(1080, 1920), (1500, 2667), (3000, 4000), (9000, 9900)]
# For each network: the LR pixels that fit into 2 GiB at x4; the overlap, alignment and minimum side; for each
# of SIZES, the tile with the fewest multiply-adds of all that fit, found by trying every way to cut the axes.
CHEAPEST = {
    "span": (586744, (21, 1, 43), (561, 981), (771, 699), (782, 702), (732, 801)),
    "imdn": (557498, (24, 24, 72), (576, 672), (792, 576), (648, 840), (864, 600)),
    "lapar_c": (296285, (21, 1, 44), (561, 512), (407, 699), (535, 537), (540, 535)),
    "pan": (391590, (36, 1, 73), (576, 534), (548, 591), (658, 563), (630, 618)),
}


def test_nearly_square_tiles_cost_hardly_more_than_the_cheapest_tiles():
    ratios = []
    for max_pixels, limits, *cheapest in CHEAPEST.values():
        grid = tiling._Grid(*limits)

        def read(size, tile, grid=grid):
            cuts = [tiling._cuts(length, side, grid, 1) for length, side in zip(size, tile, strict=True)]
            return math.prod(len(along) * side for along, side in zip(cuts, tile, strict=True))

        for size, best in zip(SIZES, cheapest, strict=True):
            tile = tiling._nearly_square(size, max_pixels, grid)
            assert math.prod(tile) <= max_pixels
            ratios.append(read(size, tile) / read(size, best))
    assert statistics.mean(ratios) < 1.01
    assert max(ratios) < 1.02


@pytest.mark.parametrize("align", [1, 8, 24])
def test_all_tiles_are_aligned_and_have_one_size(align):
    grid = tiling._Grid(24, align, 48 + align)
    for largest in range(48 + align, 220, 17):
        for length in range(30, 410, 7):
            tile = tiling._even_side(length, largest, grid)
            assert tile <= max(largest, grid.smallest)
            reads = [read for read, _, _ in tiling._cuts(length, tile, grid, 1)]
            assert all(read.start % align == 0 for read in reads)
            assert all(read.stop - read.start == tile for read in reads[:-1])
            assert reads[-1].stop == length


@pytest.mark.parametrize("tile", [0, -3, 1.5, "all", True])
def test_invalid_values_of_tile_are_refused(tile):
    with pytest.raises(ConfigError, match=r"tile: got .*; allowed: auto, none, or the side"):
        Tiled(built("span", num_feat=16), tile=tile)


def test_a_tile_must_be_larger_than_its_overlap():
    with pytest.raises(ConfigError, match=r"overlap by 21 LR pixels .* tile=42; allowed: 43"):
        Tiled(built("span"), tile=42).pieces(100, 100)


@pytest.mark.parametrize(("name", "dtype"), [("span", np.uint8), ("fsrcnn", np.uint16), ("span", np.float32)])
def test_upscale_gives_the_same_image_with_tiles(name, dtype):
    pixels = np.random.default_rng(0).integers(0, 256, (70, 60, 3))
    image = (pixels / 255 if dtype == np.float32 else pixels * (257 if dtype == np.uint16 else 1)).astype(
        dtype
    )
    network, done = built(name), []
    whole = sr_lab.upscale(image, network, tile="none")
    tiled = sr_lab.upscale(image, network, tile=50, progress=done.append)
    assert len(done) > 1
    assert done[-1] == 1
    assert np.abs(whole.astype(float) - tiled).max() <= (1e-5 if dtype == np.float32 else 1)
