import io
import math

import kornia
import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from sr_lab.config import identity, targets
from sr_lab.datasets.folder import FolderDataset
from sr_lab.datasets.images import read_image
from sr_lab.datasets.patches import RandomDegradation, with_lr
from sr_lab.datasets.sample import SamplePhotographs, training_photographs
from sr_lab.degradations import operations, realistic
from sr_lab.degradations.bicubic import BicubicDegradation
from sr_lab.degradations.blur_bicubic import BlurBicubicDegradation
from sr_lab.degradations.jpeg import JPEGDegradation
from sr_lab.degradations.noise import NoiseDegradation
from sr_lab.degradations.operations import Draws
from sr_lab.degradations.realistic import RealisticDegradation, resize
from sr_lab.errors import ConfigError, DataError
from sr_lab.files import conf_dir
from sr_lab.ops.resize import imresize
from sr_lab.training.data_module import StreamSampler, patch_loader
from tests.composing import compose

CPU = torch.device("cpu")
ALL = [BlurBicubicDegradation, NoiseDegradation, JPEGDegradation, RealisticDegradation]
random_ones = pytest.mark.parametrize("kind", ALL)


def photograph(side, count=1):
    """Cut windows from one photograph, ``(count, 3, side, side)`` uint8."""
    pixels = torch.from_numpy(read_image(training_photographs()[0])).permute(2, 0, 1)
    return torch.stack([pixels[:, 20 * k : 20 * k + side, 30 * k : 30 * k + side] for k in range(count)])


def psnr(one, other):
    return -10 * torch.log10((one.double() - other.double()).square().mean()).item()


@random_ones
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_the_lr_patch_shows_the_middle_of_the_window(kind, scale):
    degradation = kind(scale=scale)
    assert isinstance(degradation, RandomDegradation)
    hr = photograph(scale * 32, count=3)
    lr = degradation(hr, [1, 2, 3])
    assert (lr.shape, lr.dtype) == ((3, 3, 16, 16), torch.uint8)
    border = scale * degradation.margin
    middle = hr[..., border:-border, border:-border].float()
    shrunk = F.interpolate(middle, size=(16, 16), mode="area")
    assert torch.nn.functional.cosine_similarity(
        shrunk.flatten(1) - shrunk.mean(), lr.float().flatten(1) - lr.float().mean()
    ).mean() > (0.6 if kind is RealisticDegradation else 0.9)


@random_ones
def test_an_image_depends_on_its_key_and_not_on_its_batch(kind):
    degradation, hr = kind(scale=2), photograph(64, count=4)
    together = degradation(hr, [11, 12, 13, 2**64 - 1])
    alone = torch.cat([degradation(hr[k : k + 1], [key]) for k, key in enumerate((11, 12, 13, 2**64 - 1))])
    # the drawn numbers are the same, but sums over a batch may be rounded differently
    assert ((together.int() - alone.int()).abs() > 1).float().mean() < 1e-3
    assert torch.equal(together, degradation(hr, [11, 12, 13, 2**64 - 1]))
    same_image = degradation(hr[:1].expand(2, -1, -1, -1), [11, 12])
    assert not torch.equal(same_image[0], same_image[1])


@random_ones
def test_a_degradation_leaves_the_global_generator_unchanged(kind):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    kind(scale=2)(photograph(64), [1])
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_without_blur_the_lr_image_equals_matlabs(scale):
    hr = photograph(scale * 40)
    lr = BlurBicubicDegradation(scale=scale, sigma=(0.05, 0.05))(hr, [3])
    # The window resized as in MATLAB, without its border: the window's edge is not the edge of the image.
    matlab = imresize(hr.double(), denominator=scale)[..., 8:-8, 8:-8].add(0.5).floor().clamp(0, 255)
    assert (lr.double() - matlab).abs().max() <= 1
    assert (lr.double() != matlab).double().mean() < 1e-3


def test_axis_aligned_gaussian_kernels_equal_kornias():
    sigma = torch.tensor([[0.8, 2.5], [3.0, 1.0]])
    ours = operations.gaussian_kernels(sigma[:, 1, None, None], sigma[:, 0, None, None], torch.zeros(2, 1, 1))
    theirs = kornia.filters.get_gaussian_kernel2d(operations.KERNEL, sigma)
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-4)


def test_a_kernel_rotated_by_90_degrees_has_its_axes_swapped():
    wide, narrow = torch.full((1, 1, 1), 3.0), torch.full((1, 1, 1), 0.7)
    turned = operations.gaussian_kernels(wide, narrow, torch.full((1, 1, 1), torch.pi / 2))
    torch.testing.assert_close(turned, operations.gaussian_kernels(narrow, wide, torch.zeros(1, 1, 1)))


@pytest.mark.parametrize("sigma", [5.0, 25.0])
def test_gaussian_noise_has_the_requested_standard_deviation(sigma):
    image = torch.full((4, 3, 96, 96), 0.5)
    noisy = operations.add_noise(
        image, Draws(range(4), CPU), sigma=(sigma, sigma), poisson_share=0, poisson=(1, 1)
    )
    assert ((noisy - image) * 255).std().item() == pytest.approx(sigma, rel=0.02)
    assert (noisy[0] - noisy[1]).abs().max() > 0


@pytest.mark.parametrize("level", [40, 200])
def test_poisson_noise_grows_with_the_square_root_of_the_grey_level(level):
    image = torch.full((4, 3, 96, 96), level / 255)
    noisy = operations.add_noise(image, Draws(range(4), CPU), sigma=(9, 9), poisson_share=1, poisson=(2, 2))
    expected = 2 * (level * 255 / 256) ** 0.5
    assert ((noisy - image) * 255).std().item() == pytest.approx(expected, rel=0.03)
    assert ((noisy - image) * 255).mean().item() == pytest.approx(0, abs=0.5)


def test_grey_noise_is_the_same_in_all_channels():
    image = torch.full((6, 3, 32, 32), 0.5)
    noisy = operations.add_noise(
        image, Draws(range(6), CPU), sigma=(9, 9), poisson_share=0.5, poisson=(1, 1), grey_share=1
    )
    assert torch.equal(noisy[:, 0], noisy[:, 1])
    assert torch.equal(noisy[:, 0], noisy[:, 2])


@pytest.mark.parametrize(("side", "lowest"), [(11, math.pi / 3), (21, math.pi / 3), (21, math.pi / 5)])
def test_sinc_kernels_pass_frequencies_below_the_cutoff_and_stop_those_above_it(side, lowest):
    """The cutoff is where the response falls to one half; over many images the cutoffs cover [lowest, pi]."""
    draws = Draws(range(200), CPU)
    count = torch.full((200,), side)
    kernels = realistic._sinc(draws, count, count > 0, lowest=lowest)
    response = torch.fft.rfft(torch.fft.ifftshift(kernels.sum(1), dim=-1), n=21).real
    assert torch.allclose(response[:, 0], torch.ones(200), atol=1e-5)
    cutoff = (response > 0.5).sum(1).sub(0.5) * 2 * math.pi / 21
    assert lowest - 0.3 < cutoff.min() < lowest + 0.3
    assert cutoff.max() > math.pi - 0.4


def test_the_final_sinc_filter_has_a_cutoff_of_at_least_a_third_of_pi(monkeypatch):
    """As in Real-ESRGAN's dataset; only the blurs have cutoffs down to a fifth of pi."""
    lowest, sinc = [], realistic._sinc

    def recorded(*given, **named):
        lowest.append(named["lowest"])
        return sinc(*given, **named)

    monkeypatch.setattr(realistic, "_sinc", recorded)
    RealisticDegradation(scale=2)(photograph(64, count=2), [1, 2])
    assert lowest[-1] == math.pi / 3


@pytest.mark.parametrize("quality", [30, 50, 75, 95])
def test_jpeg_compression_is_close_to_libjpegs(quality):
    """kornia's rounding is differentiable, so the decoded images agree only to 40 dB or more."""
    hr = photograph(96)
    buffer = io.BytesIO()
    Image.fromarray(hr[0].permute(1, 2, 0).numpy()).save(buffer, "JPEG", quality=quality)
    pillow = torch.from_numpy(np.array(Image.open(buffer))).permute(2, 0, 1)[None] / 255
    ours = operations.jpeg(hr / 255, torch.tensor([float(quality)]))
    assert psnr(ours, pillow) > 40
    assert psnr(ours, pillow) > psnr(pillow, hr / 255) + 6
    assert 0 <= psnr(ours, hr / 255) - psnr(pillow, hr / 255) < 1.2


@pytest.mark.parametrize(("mode", "name"), [(0, "area"), (1, "bilinear"), (2, "bicubic")])
@pytest.mark.parametrize("new", [10, 20, 60, 33])
def test_resizing_images_to_different_sizes_at_once_equals_torchs_resize(mode, name, new):
    if name == "area" and new == 33:
        pytest.skip("torch takes whole pixels, see the next test")
    image = torch.rand(2, 3, 20, 20, generator=torch.Generator().manual_seed(0))
    sizes = torch.tensor([new, 17])
    ours = resize(image, torch.tensor([20, 20]), sizes, 64, torch.tensor([mode, 1]), Draws([0, 1], CPU))
    theirs = F.interpolate(image[:1], size=(new, new), mode=name)
    torch.testing.assert_close(ours[:1, :, :new, :new], theirs, atol=1e-5, rtol=0)
    torch.testing.assert_close(
        ours[1:, :, :17, :17], F.interpolate(image[1:], size=(17, 17), mode="bilinear"), atol=1e-5, rtol=0
    )
    assert torch.equal(
        ours[..., :new, new:][:1], ours[..., :new, new - 1 : new].expand(-1, -1, -1, 64 - new)[:1]
    )


def test_an_area_resize_keeps_the_mean():
    image = torch.rand(1, 3, 20, 20, generator=torch.Generator().manual_seed(0))
    small = resize(image, torch.tensor([20]), torch.tensor([13]), 13, torch.tensor([0]), Draws([0], CPU))
    assert small.mean().item() == pytest.approx(image.mean().item(), abs=1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: JPEGDegradation(scale=2, quality=(0, 50)),
            r"degradation.quality: .* from 1 up and at most 100",
        ),
        (lambda: NoiseDegradation(scale=2, sigma=(9, 3)), r"degradation.sigma: .* got \[9, 3\]"),
        (
            lambda: NoiseDegradation(scale=2, poisson_share=1.5),
            "degradation.poisson_share: must be from 0 to 1",
        ),
        (lambda: BlurBicubicDegradation(scale=2, sigma=(0, 3)), r"degradation.sigma: .* from 0.01 up"),
    ],
)
def test_invalid_ranges_are_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


@pytest.fixture(scope="module")
def make(tmp_path_factory):
    cache_dir = str(tmp_path_factory.mktemp("cache"))

    def build(degradation, **settings):
        settings |= {"lr_patch_size": 16, "cache_dir": cache_dir}
        made = SamplePhotographs(scale=2, degradation=degradation, **settings)
        made.prepare()
        return made

    return build


def test_windows_and_keys_depend_only_on_the_seed_and_the_sample_number(make):
    made = make(NoiseDegradation(scale=2))
    batch = made.__getitems__([5, 9, 2])
    assert "lr" not in batch
    assert batch["hr"].shape == (3, 3, 64, 64)  # (16 + a margin of 8 on both sides) * 2
    for number, sample in enumerate((5, 9, 2)):
        alone = made.__getitems__([sample])
        assert torch.equal(alone["hr"][0], batch["hr"][number])
        assert alone["key"] == batch["key"][number : number + 1]
    assert make(NoiseDegradation(scale=2), seed=1).__getitems__([5])["key"] != batch["key"][:1]
    assert len(set(made.__getitems__(range(200))["key"])) == 200


@pytest.mark.parametrize(("world", "workers"), [(1, 0), (2, 1)])
def test_workers_processes_and_a_resumed_run_see_the_same_lr_patches(make, workers, world):
    made = make(NoiseDegradation(scale=2))
    whole = with_lr(made.__getitems__(range(8, 12)), made.degradation)
    got = {}
    for rank in range(world):
        sampler = StreamSampler(lambda: 8, batch_size=4, rank=rank, world=world)  # resumed at sample 8
        batch = with_lr(next(iter(patch_loader(made, sampler, num_workers=workers))), made.degradation)
        got |= {8 + rank + world * k: (batch["lr"][k], batch["hr"][k]) for k in range(4 // world)}
    for number, sample in enumerate(range(8, 12)):
        assert torch.equal(got[sample][0], whole["lr"][number])
        assert torch.equal(got[sample][1], whole["hr"][number])
    assert whole["hr"].shape == (4, 3, 32, 32)


def test_a_batch_of_bicubic_patches_has_lr_images_and_no_keys(make):
    batch = make(BicubicDegradation(scale=2)).__getitems__([0, 1])
    assert set(batch) == {"lr", "hr", "name", "dihedral"}


def test_a_random_degradation_refuses_lr_images(tmp_path):
    folder = tmp_path / "hr"
    folder.mkdir()
    for number in range(2):
        Image.new("RGB", (64, 64)).save(folder / f"{number}.png")
    with pytest.raises(ConfigError, match="lr_dir: names LR images"):
        FolderDataset(
            hr_dir=str(folder),
            lr_dir=str(folder),
            scale=2,
            degradation=NoiseDegradation(scale=2),
            cache_dir="x",
        )
    small = FolderDataset(
        hr_dir=str(folder),
        scale=2,
        lr_patch_size=20,
        degradation=NoiseDegradation(scale=2),
        cache_dir=str(tmp_path / "c"),
    )
    with pytest.raises(DataError, match="scale=2 need 72x72, including 8 LR pixels on each side"):
        small.prepare()


def test_every_degradation_option_can_be_composed_and_built():
    for option in sorted(path.stem for path in (conf_dir() / "degradation").glob("*.yaml")):
        config = compose(f"degradation={option}", "scale=2")
        built = targets.build("degradation", config.degradation)
        assert built.scale == 2
        assert type(built).__module__ == f"sr_lab.degradations.{option}"
    assert identity.identity(config)["degradation"]["_target_"] == config.degradation["_target_"]
