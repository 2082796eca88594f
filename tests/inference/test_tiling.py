import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import sr_lab
from sr_lab.checkpoints.catalogue import Entry
from sr_lab.errors import ConfigError
from sr_lab.inference import tiling as inference
from sr_lab.inference.tiling import Reach, Tiled
from sr_lab.layers.folding import for_inference
from sr_lab.ops.complexity import peak_memory


class Chain(nn.Module):
    """Convolutions of known reach, then nearest neighbours."""

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
    lr = torch.rand(1, inference._channels(network), height, width)
    return (network(lr) - tiled(lr)).abs().max().item()


@pytest.mark.parametrize(
    ("sizes", "pixels"), [((3,), 2), ((3, 3, 3), 3), ((7, 3, 1), 4), ((9, 9, 9, 9), 16), ((31,) * 4, 60)]
)
def test_the_reach_of_convolutions_is_found(sizes, pixels):
    assert inference._reach(Chain(*sizes)) == Reach(pixels, 1)


def test_zero_weights_hide_no_reach():
    network = Chain(3, 9)
    nn.init.zeros_(network.convs[1].weight)
    assert inference._reach(network) == Reach(5, 1)


def test_a_mean_over_the_image_has_no_reach():
    assert inference._reach(Chain(3, pool=True)) is None


def test_a_stride_wants_tiles_on_its_raster():
    found = inference._reach(Chain(3, stride=4))
    assert found is not None
    assert found.align == 4


@pytest.mark.parametrize(
    ("name", "pixels"),
    # 3x3s in a row; VDSR has twenty at HR size behind a bicubic kernel
    [("bicubic", 2), ("span", 21), ("carn_m", 21), ("vdsr", 2 + 20 // 2), ("ecbsr_m4c16", 6)],
)
def test_networks_of_local_operations_have_a_reach(name, pixels):
    assert inference._reach(built(name)) == Reach(pixels, 1)


@pytest.mark.parametrize("name", ["imdn", "osffnet", "rfdn", "mren", "lbnet", "swinir_light"])
def test_networks_that_pool_or_attend_over_the_image_have_none(name):
    assert inference._reach(built(name)) is None


@pytest.mark.parametrize("name", ["fsrcnn", "span", "pan", "carn_m", "lapar_c", "ecbsr_m4c16", "vdsr"])
def test_tiles_of_a_local_network_equal_the_whole(name):
    network = built(name)
    tiled = Tiled(network, tile=81)
    assert len(tiled.pieces(101, 87)) >= 4
    assert difference(network, tiled, 101, 87) < 1e-5
    assert "equal to the whole image" in tiled.told


def test_tiles_on_a_raster_equal_the_whole():
    network = Chain(3, 3, stride=4)
    assert difference(network, Tiled(network, tile=24), 75, 62) < 1e-6


def test_tiles_of_a_network_that_pools_say_that_they_differ():
    network = built("imdn", num_feat=16, num_block=2)
    tiled = Tiled(network, tile=96)
    assert 1e-7 < difference(network, tiled, 150, 100) < 0.1
    assert tiled.told.startswith("150x100 pixels in tiles of 96x96, overlapping by 24; not equal")


def test_an_image_that_fits_is_taken_whole():
    tiled = Tiled(built("imdn"))
    assert len(tiled.pieces(300, 200)) == 1
    assert tiled.told is None


def test_whole_images_are_whole_whatever_they_take():
    assert len(Tiled(built("imdn"), tile="none").pieces(9000, 9000)) == 1


@pytest.mark.parametrize("size", [(97, 240), (300, 100), (211, 223)])
@pytest.mark.parametrize("name", ["span", "imdn"])
def test_tiles_keep_to_the_memory(name, size):
    network = built(name, num_feat=16)
    per_pixel = peak_memory(network, scale=2, hr_size=(200, 200)) / 100**2
    tiled = Tiled(network, memory=int(per_pixel * 140 * 140))
    pieces = tiled.pieces(*size)
    assert len(pieces) > 1
    read = [torch.empty(size)[piece.read].shape for piece in pieces]
    for height, width in read:  # weights and small sizes are what the two counts differ by
        taken = peak_memory(network, scale=2, hr_size=(2 * width, 2 * height))
        assert taken < 1.1 * tiled.memory


def test_every_pixel_is_written_once():
    tiled = Tiled(built("span", num_feat=16), tile=70)
    written = np.zeros((2 * 171, 2 * 133), int)
    for piece in tiled.pieces(171, 133):
        written[piece.write] += 1
    assert (written == 1).all()


def test_tiles_cost_little_more_than_the_whole():
    network = built("span", 4)
    pieces = Tiled(network).pieces(1000, 1000)
    assert len(pieces) > 1
    read = sum(torch.empty(1000, 1000, device="meta")[piece.read].numel() for piece in pieces)
    assert read < 1.25 * 1000**2


def test_attention_over_the_image_takes_small_tiles():
    """Its cost grows with the square of a tile."""
    pieces = Tiled(built("lbnet")).pieces(1500, 1500)
    assert all(piece.read[0].stop - piece.read[0].start <= 240 for piece in pieces)


# Rows and columns of the tiles of 97x240, 1080x1920, 1500x2667 and 3000x4000 pixels with 2 GiB, x4, as they
# were when every way to cut an axis was tried one by one.
PLANNED = {
    "span": (586744, (1842171.53125, 0.0), Reach(21, 1), 1, (97, 240), (561, 981), (771, 699), (782, 702)),
    "imdn": (557498, (709825.3333333334, 0.0), None, 1, (97, 240), (576, 672), (792, 576), (648, 840)),
    "lbnet": (262785, (1795298.2083, 107.99954), None, 1, (97, 144), (144, 120), (120, 168), (144, 120)),
    "lapar_c": (296285, (463408.0, 0.0), Reach(21, 1), 2, (97, 240), (561, 512), (407, 699), (535, 537)),
    "pan": (391590, (488952.0, 0.0), Reach(36, 1), 1, (97, 240), (576, 534), (548, 591), (658, 563)),
}


@pytest.mark.parametrize("name", PLANNED)
def test_tiles_are_the_cheapest_of_all(name):
    pixels, work, reach, min_size, *expected = PLANNED[name]
    sizes = [(97, 240), (1080, 1920), (1500, 2667), (3000, 4000)]
    assert [inference._cheapest(size, pixels, work, reach, min_size) for size in sizes] == expected


@pytest.mark.parametrize("align", [1, 8, 24])
def test_the_number_of_pieces_is_known_before_they_are_made(align):
    for tile in range(2 * 24 + align, 220, 5):
        for length in range(30, 210, 7):
            cuts = inference._cuts(length, tile, 24, align)
            assert inference._num_cuts(length, tile, 24, align) == len(cuts)


def test_planning_makes_no_pieces(monkeypatch):
    """They took 11 seconds for an image of this size."""
    monkeypatch.setattr(inference, "_cuts", None)
    counted = []
    monkeypatch.setattr(inference, "_num_cuts", lambda *axis: counted.append(axis) or 2)
    inference._cheapest((9000, 9900), 296285, (463408.0, 0.0), Reach(21, 1), 2)
    assert len(counted) < 500


@pytest.mark.parametrize("tile", [0, -3, 1.5, "all", True])
def test_no_such_tile(tile):
    with pytest.raises(ConfigError, match=r"tile: got .*; allowed: auto, none, or the side"):
        Tiled(built("span", num_feat=16), tile=tile)


def test_a_tile_must_leave_something_beside_its_overlap():
    with pytest.raises(ConfigError, match=r"overlap by 21 LR pixels on every side, got tile=42; allowed: 43"):
        Tiled(built("span"), tile=42).pieces(100, 100)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("name", ["span", "vdsr"])
def test_upscale_gives_the_same_in_tiles(name, dtype):
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


MERGED = ["a2f_sd", "ecbsr_m4c16", "efrdn", "fmen_ntire", "memnet", "reprfn", "span"]


def with_norms_in_use(network):
    """Batch norms of fresh networks change nothing."""
    for norm in (module for module in network.modules() if isinstance(module, nn.BatchNorm2d)):
        nn.init.uniform_(norm.running_mean, -0.1, 0.1)
        nn.init.uniform_(norm.running_var, 0.5, 2)
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.uniform_(norm.bias, -0.1, 0.1)
    return network


@pytest.mark.parametrize("name", MERGED)
@torch.no_grad()
def test_what_runs_gives_the_output_of_what_was_trained(name):
    network = with_norms_in_use(built(name))
    before = copy.deepcopy(network.state_dict())
    runs = for_inference(network)
    lr = torch.rand(1, inference._channels(network), 30, 37)
    sr = network(lr)  # of fresh weights: not in [0, 1]
    assert (sr - runs(lr)).abs().max() < 1e-5 * max(1, sr.abs().max())
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    if name != "memnet":  # its norms stand before activations
        assert runs is not network


def test_the_three_kernels_of_an_acrb_run_as_one():
    runs = for_inference(with_norms_in_use(built("efrdn")))
    shapes = [tuple(module.kernel_size) for module in runs.modules() if isinstance(module, nn.Conv2d)]
    assert (1, 3) not in shapes
    assert (3, 1) not in shapes


def test_strategies_are_folded_too():
    from sr_lab.strategies import ggas

    network = with_norms_in_use(ggas.apply(built("imdn", num_feat=16, num_block=2))).eval()
    runs = for_inference(network)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in runs.modules())
    lr = torch.rand(1, 3, 20, 21)
    with torch.no_grad():
        assert (network(lr) - runs(lr)).abs().max() < 1e-5


def test_a_network_with_nothing_to_merge_runs_itself():
    network = built("imdn", num_feat=16, num_block=2)
    assert for_inference(network) is network


def test_what_merging_would_change_is_not_merged():
    network = built("ecbsr_m4c16").bfloat16()  # whose rounding is more than the tolerance
    assert for_inference(network) is network


def test_a_network_in_training_stays_so():
    network = built("ecbsr_m4c16").train()
    assert not for_inference(network).training
    assert network.training
