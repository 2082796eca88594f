"""``task=compare``: the crops that papers print: a window of an image in HR, bicubic and each network."""

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from sr_lab.config.schema import CompareConfig
from sr_lab.inference.tiling import Tiled
from sr_lab.layers.folding import for_inference
from sr_lab.models.bicubic import Bicubic
from sr_lab.ops.colour import rgb_to_ycbcr, ycbcr_to_rgb
from sr_lab.ops.metrics import quantise
from sr_lab.ops.resize import imresize
from sr_lab.protocol import PROTOCOLS
from sr_lab.reporting import crops
from sr_lab.reporting.crops import Box, Comparison, Version
from sr_lab.reporting.formatting import fixed
from sr_lab.reporting.progress import Progress
from sr_lab.reporting.saved_images import Pixels, safe
from sr_lab.system.devices import check_gpu, device_of
from sr_lab.tasks import common, figure_networks
from sr_lab.tasks.figure_networks import BICUBIC, Network, Shown, window_of
from sr_lab.training.lit_module import SRModule


def run(config: CompareConfig, folder: Path, overrides: Sequence[str]) -> None:
    """Upscale the image with every network, and write the figure into the folder.

    Raises:
        ConfigError: There is no image or network, the networks have different scales, the window is not in
            the image, or a file exists.
        CheckpointError: See `open_stored`.
        DataError: An image is missing or broken, or the LR image does not fit the HR image.
    """
    check_gpu(config.trainer.accelerator, config.trainer.devices)
    figure_networks.refuse_unused(config, overrides)
    networks = figure_networks.networks(config, overrides)
    scale = networks[0].scale
    shown = figure_networks.image(config, scale)
    given = None if config.crop == "auto" else window_of(config.crop, shown.lr, scale)
    stem = "_".join(
        [safe(shown.name), f"x{scale}", *(["-".join(map(str, config.crop))] if given is not None else [])]
    )
    names = [*([] if shown.hr is None else ["HR"]), BICUBIC, *(each.name for each in networks)]
    common.refuse_existing(crops.files_of(folder, stem, names), overwrite=config.overwrite)
    comparison = _compared(shown, networks, device_of(config.trainer.accelerator, config.trainer.devices))
    box = comparison.window(config.crop_size) if given is None else given
    paths = crops.write_figure(folder, stem, comparison, box, rule="auto" if given is None else "given")
    _say(shown, comparison, box, scale)
    for path in paths[:4]:
        common.console.print(f"written: {common.shown(path)}")
    common.console.print(f"written: {len(paths) - 4} images for the LaTeX file")


@torch.inference_mode()
def _compared(shown: Shown, networks: Sequence[Network], device: torch.device) -> Comparison:
    scale = networks[0].scale
    every = [Network(BICUBIC, "", scale, Bicubic(scale=scale)), *networks]
    colours = shown.lr
    if shown.hr is not None and colours.shape[1] == 1:
        colours = PROTOCOLS["rgb_uint8"].make_lr(shown.hr, scale)
    methods = []
    with Progress(len(every), "networks", console=common.console, transient=True) as progress:
        for number, each in enumerate(every):
            progress.update(number, each.name)
            runs = Tiled(for_inference(each.network), tile="auto", like=each.network).to(device).eval()
            module = SRModule(runs, scale=scale, protocol=shown.protocol)
            sr = module.upscale(shown.lr.to(device), grey=shown.grey).cpu()
            runs.cpu()
            psnr, ssim = math.nan, math.nan
            if shown.hr is not None:
                scores = shown.protocol.measure(sr, shown.hr, scale, grey=shown.grey)
                psnr, ssim = (score.item() for score in scores)
            pixels = _pixels(_in_colour(sr, colours, shown, scale))
            name = shown.protocol.name if shown.hr is not None else ""
            methods.append(Version(each.name, pixels, psnr, ssim, name, each.source))
    hr = None if shown.hr is None else Version("HR", shown.hr[0].permute(1, 2, 0).numpy())
    whole = _pixels(shown.lr) if hr is None else hr.pixels
    return Comparison(shown.set_name, shown.name, scale, hr, whole, tuple(methods))


def _in_colour(sr: Tensor, lr: Tensor, shown: Shown, scale: int) -> Tensor:
    """A result as RGB; a luma result gets bicubic chroma, as in papers."""
    if sr.shape[1] == 3:
        return sr
    if shown.grey and shown.protocol.grey == "luma":
        return sr.expand(-1, 3, -1, -1)
    chroma = imresize(rgb_to_ycbcr(lr.double())[:, 1:], numerator=scale)
    return ycbcr_to_rgb(torch.cat((sr.double(), chroma), dim=1))


def _pixels(image: Tensor) -> Pixels:
    """``(1, 3, H, W)`` in [0, 1] as ``(H, W, 3)`` of 8 bits, quantised as for measuring."""
    levels = quantise(image.double()) * 255
    return levels.round().byte()[0].permute(1, 2, 0).numpy()


def _say(shown: Shown, comparison: Comparison, box: Box, scale: int) -> None:
    say = common.console.print
    for method in comparison.methods:
        scores = f": {fixed(method.psnr, 2)} dB / {fixed(method.ssim, 4)}" if shown.hr is not None else ""
        say(f"{method.name}{scores}{f' ({method.source})' if method.source else ''}")
    if shown.hr is not None:
        say(f"protocol: {shown.protocol.describe(scale)}")
    say(f"crop: {box.left},{box.top},{box.width},{box.height}")
