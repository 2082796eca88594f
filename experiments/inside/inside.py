"""Inside a network, from Python: upscale, compare, spectrum, residuals, attribution, errors.

The notebook inside.ipynb has the same cells. They need no data and no download. task=analyze and
task=compare draw the figures of papers from the command line.
"""

# %% A photograph, and its LR image as papers make it
import io

import torch
from matplotlib.figure import Figure
from PIL import Image

import sr_lab
from sr_lab.analysis import attribution, drawing, pixel_errors, spectrum, stages
from sr_lab.analysis.drawing import Panel
from sr_lab.datasets.images import read_image
from sr_lab.datasets.sample import benchmark_photographs
from sr_lab.models.bicubic import Bicubic
from sr_lab.ops.colour import rgb_to_y
from sr_lab.ops.metrics import quantise
from sr_lab.protocol import PROTOCOLS

protocol = PROTOCOLS["rgb_uint8"]
photograph = next(path for path in benchmark_photographs() if path.stem == "chelsea")
pixels = read_image(photograph)[60:188, 120:248]
hr = torch.from_numpy(pixels).permute(2, 0, 1)[None]  # (1, 3, 128, 128), uint8
lr = protocol.make_lr(hr, 2)  # (1, 3, 64, 64) in [0, 1]

# %% Upscale it with bicubic and the network that comes with sr_lab (or zoo/bsrn_x2, a run folder, a file)
networks = {"bicubic": Bicubic(scale=2), "quick_x2": sr_lab.load("pretrained/quick_x2")}
with torch.inference_mode():
    results = {name: network(lr) for name, network in networks.items()}
for name, sr in results.items():
    psnr, ssim = protocol.measure(sr, hr, 2)
    print(f"{name}: {psnr.item():.2f} dB / {ssim.item():.4f}")


# %% The results
def shown(figure: Figure) -> Image.Image:
    """The figure as an image, which a notebook shows."""
    file = io.BytesIO()
    figure.savefig(file, dpi=110)
    return Image.open(file)


pictures = {"HR": hr / 255, **results}
panels = [Panel(name, picture[0].permute(1, 2, 0)) for name, picture in pictures.items()]
shown(drawing.maps({"x2": panels}, title="One photograph"))

# %% Which blocks have less fine detail than the block before? (Two Strategies, Fig. 1)
network = networks["quick_x2"]
blocks = [stage for stage in stages.stages(network, lr) if stage.module != "head"]
less = spectrum.lacking(blocks)
spectra = [(block.name, spectrum.psd(block.output), block.name in less) for block in blocks]
print(f"{len(less)} of {len(blocks) - 1} blocks have less fine detail than the block before")
shown(drawing.spectra({"quick_x2": spectra}, title="Power spectral density of each block's output"))

# %% How much does each block add? (Fig. 2)
residuals = [(block.name, float((block.output - block.input).abs().mean())) for block in blocks]
shown(drawing.residuals({"quick_x2": residuals}, title="Mean absolute residual of each block"))

# %% Which LR pixels does a window of the result depend on?
local = attribution.local_attribution(network, lr, (56, 56, 16, 16))
field = attribution.receptive_field(network, lr)
print(f"diffusion index {local.diffusion_index:.1f}, 95 % within {attribution.side_of(field.map)} LR pixels")
maps = {"local attribution": local.map, "receptive field": field.map}
panels = [Panel(name, found.sqrt(), "root of the contribution") for name, found in maps.items()]
shown(drawing.maps({"quick_x2": panels}, title="Attribution"))


# %% Where is the result wrong: at edges or elsewhere, in coarse or fine detail?
def luma(image: torch.Tensor) -> torch.Tensor:
    """Luma in [0, 255] without the border that papers leave out."""
    return 255 * rgb_to_y(quantise(image.double()))[0, 0, 2:-2, 2:-2]


found = {name: pixel_errors.errors(luma(sr), luma(hr / 255)) for name, sr in results.items()}
bicubic = found.pop("bicubic")
shown(drawing.error_maps(found, bicubic, title="Error on luma"))
