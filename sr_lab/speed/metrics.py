"""Cost of measuring: SSIM and PSNR against other libraries, an evaluation against its network alone."""

import tempfile
import time
from functools import partial
from pathlib import Path

import kornia
import lightning
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor, nn

from sr_lab.datasets.benchmark import BenchmarkSet
from sr_lab.datasets.images import read_image
from sr_lab.datasets.sample import benchmark_photographs
from sr_lab.models.imdn import IMDN
from sr_lab.ops.metrics import SSIM_WINDOW, psnr, ssim
from sr_lab.protocol import PROTOCOLS
from sr_lab.speed.benchmark import Benchmark, seconds
from sr_lab.system.devices import exact_float32
from sr_lab.training.data_module import SRDataModule
from sr_lab.training.examples import ExampleImages
from sr_lab.training.lit_module import TEST_ONLY, SRModule

SCALE = 4
NETWORK: type[nn.Module] = IMDN  # a fast network; its weights do not matter
SIZES = (  # height and width of Set14's images
    *((480, 500), (576, 720), (512, 512), (288, 352), (361, 250), (276, 276), (362, 500)),
    *((288, 352), (512, 512), (512, 512), (512, 768), (512, 512), (656, 529), (391, 586)),
)
SIDE = 1024  # side of the pair of luma images, in pixels
REPEATS = 3  # number of times the pair is measured in one run


def benchmarks(workspace: Path) -> list[Benchmark]:
    """SSIM and PSNR of a pair of luma images, and a whole evaluation.

    Returns:
        ``ssim.ratio_to_skimage``, ``ssim.ratio_to_kornia`` and ``psnr.ratio_to_skimage``: how many times as
        fast sr_lab is, all on the CPU; with a GPU, ``ssim.gpu_ratio_to_skimage`` too; and
        ``evaluate.share_outside_network``: the share of an evaluation's time that is not spent in the
        network.
    """
    sr, hr = _pair()
    arrays = sr.numpy()[0, 0], hr.numpy()[0, 0]
    of_ssim = {
        "ours": partial(seconds, lambda: ssim(sr, hr, crop_border=0), REPEATS),
        "skimage": partial(seconds, lambda: skimage_ssim(*arrays), REPEATS),
        "kornia": partial(
            seconds, lambda: kornia.metrics.ssim(sr, hr, SSIM_WINDOW, padding="valid").mean(), REPEATS
        ),
    }
    if torch.cuda.is_available():
        on_gpu = sr.cuda(), hr.cuda()
        of_ssim["gpu"] = partial(seconds, lambda: ssim(*on_gpu, crop_border=0).cpu(), 10 * REPEATS)
    of_psnr = {
        "ours": partial(seconds, lambda: psnr(sr, hr, crop_border=0), REPEATS),
        "skimage": partial(seconds, partial(peak_signal_noise_ratio, *arrays, data_range=1), REPEATS),
    }
    images, network = _images(workspace), NETWORK(scale=SCALE)
    return [
        Benchmark(
            "ssim",
            of_ssim,
            lambda s: {
                "ratio_to_skimage": s["skimage"] / s["ours"],
                "ratio_to_kornia": s["kornia"] / s["ours"],
                **({"gpu_ratio_to_skimage": s["skimage"] / s["gpu"]} if "gpu" in s else {}),
            },
        ),
        Benchmark("psnr", of_psnr, lambda s: {"ratio_to_skimage": s["skimage"] / s["ours"]}),
        Benchmark(
            "evaluate",
            {
                "whole": lambda: evaluation(network, images, workspace / "pictures"),
                "network": lambda: network_alone(network, images),
            },
            lambda s: {"share_outside_network": 1 - s["network"] / s["whole"]},
        ),
    ]


def skimage_ssim(sr: NDArray[np.float64], hr: NDArray[np.float64]) -> float:
    """SSIM by scikit-image, on whole windows only."""
    settings = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1}
    margin = SSIM_WINDOW // 2
    _, full = structural_similarity(  # type: ignore[no-untyped-call]
        hr, sr, win_size=SSIM_WINDOW, full=True, **settings
    )
    return float(full[margin:-margin, margin:-margin].mean())


def evaluation(network: nn.Module, images: BenchmarkSet, pictures: Path) -> float:
    """Seconds from the first image to the last written picture, as ``task=evaluate`` measures a network."""
    module = SRModule(network, scale=images.scale, protocol=images.protocol, test_sets=[images.name])
    clock = _Clock()
    with tempfile.TemporaryDirectory() as scratch:
        trainer = lightning.Trainer(
            **TEST_ONLY,
            devices=1,
            callbacks=[clock, ExampleImages(pictures)],
            default_root_dir=scratch,
        )
        trainer.test(module, datamodule=SRDataModule(test=[images]), verbose=False)
    return clock.seconds


@torch.inference_mode()
def network_alone(network: nn.Module, images: BenchmarkSet) -> float:
    """Seconds of the network's forward passes on the same images, already on the device."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = network.to(device).eval()
    lrs = [images[index]["lr"][None].to(device) for index in range(len(images))]

    def run() -> Tensor:
        with exact_float32():
            return torch.stack([network(lr).mean() for lr in lrs]).cpu()  # waits for the device

    return seconds(run)


class _Clock(lightning.Callback):
    """Seconds of a test, including pictures: teardown follows every callback's ``on_test_end``."""

    seconds = 0.0

    def on_test_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Start."""
        self._started = time.perf_counter()

    def teardown(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        """Stop."""
        self.seconds = time.perf_counter() - self._started


def _pair() -> tuple[Tensor, Tensor]:
    """Luma images ``(1, 1, SIDE, SIDE)`` in [0, 1], float64, one with noise and one without."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, 1, 32, 32, generator=generator, dtype=torch.float64)
    hr = nn.functional.interpolate(coarse, size=(SIDE, SIDE), mode="bilinear")
    noise = torch.randn(hr.shape, generator=generator, dtype=torch.float64)
    return (hr + 0.03 * noise).clamp(0, 1), hr


def _images(workspace: Path) -> BenchmarkSet:
    """Crops of photographs in the sizes of Set14's images; small photographs are first upscaled twofold."""
    folder = workspace / "benchmark"
    folder.mkdir(parents=True, exist_ok=True)
    photographs = [Image.fromarray(read_image(file)) for file in benchmark_photographs()]
    files = []
    for number, (height, width) in enumerate(SIZES):
        photograph = photographs[number % len(photographs)]
        if photograph.width < width or photograph.height < height:
            photograph = photograph.resize((2 * photograph.width, 2 * photograph.height))
        files.append(folder / f"{number:02}.png")
        photograph.crop((0, 0, width, height)).save(files[-1])
    return BenchmarkSet(name="Set14", files=files, scale=SCALE, protocol=PROTOCOLS["rgb_uint8"])
