"""Put trained networks into the package: half-precision weights, a card for each, their PSNR and SSIM.

    python experiments/ledger/ship.py --runs outputs/quick/second_x2-... outputs/quick/second_x4-... \
        --photographs data/train/CC0_sources.csv

Writes ``quick_x<scale>.safetensors`` and ``.md`` in ``sr_lab/zoo/pretrained``, and
``experiments/ledger/shipped.csv``, with which ``make ledger`` compares a new measurement. SR_LAB_DATA must
have Set5 and Set14.
"""

import argparse
import csv
import json
import os
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

import sr_lab
from sr_lab.checkpoints.opening import open_stored
from sr_lab.datasets.benchmark import BenchmarkSet
from sr_lab.ops.complexity import num_params
from sr_lab.protocol import PROTOCOLS
from sr_lab.reporting.published import experiments_dir
from sr_lab.reporting.runs import read_run
from sr_lab.system.devices import processor
from sr_lab.training.lit_module import SRModule
from sr_lab.zoo import shipped

SETS = ("sample", "Set5", "Set14")
# PSNR on Set5 as printed: FSRCNN (Dong et al., ECCV 2016), VDSR (Kim et al., CVPR 2016).
PRINTED = {2: (37.00, 37.53), 3: (33.16, 33.66), 4: (30.71, 31.35)}

CARD = """# {name}

A small network for x{scale} that comes with sr_lab: IMDN-RTC (Hui et al., ACM MM 2019) with {width} channels
and {depth} blocks, whose output is added to the bicubic image; {size} parameters, stored in half precision.
Input and output are RGB images in 0..1 of any size; the output is not clipped.

    python -m sr_lab task=upscale input=photo.jpg scale={scale}

```python
import sr_lab

sr_lab.upscale("photo.jpg", sr_lab.load("pretrained/{name}")).save("large.png")
```

## PSNR and SSIM

PSNR [dB] / SSIM on luma, for LR images made by MATLAB's bicubic imresize (protocol `rgb_uint8`):

| images | here | FSRCNN, printed | VDSR, printed |
|---|---|---|---|
{figures}

A megapixel of the result takes {seconds} s on one core ({processor}).

## Training

The training is described in
[experiments/ledger](../../experiments/ledger/README.md#the-weights-in-the-package). Its last stage took
{steps} steps at a learning rate of {rate}, with code {code} and seed {seed}. The network was trained on
bicubic LR images only: it keeps noise and JPEG blocks, and does not invent detail.

## Licence

The weights are under sr_lab's licence, Apache-2.0. The photographs that they were trained on are CC0-1.0:

| photograph | from |
|---|---|
{photographs}
"""


def main() -> None:
    """Write weights, cards, PSNR and SSIM."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--runs", nargs="+", type=Path, required=True)
    parser.add_argument("--photographs", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    shipped.FOLDER.mkdir(exist_ok=True)
    rows = []
    for run in args.runs:
        stored, network = open_stored(str(run / "checkpoints" / "last.ckpt"), None, print, key="runs")
        name = f"quick_x{stored.scale}"
        state = {key: weight.half().contiguous() for key, weight in network.state_dict().items()}
        settings = {"sr_lab": json.dumps(stored.model_dump(), sort_keys=True), "format": "pt"}
        save_file(state, shipped.FOLDER / f"{name}.safetensors", settings)
        (shipped.FOLDER / f"{name}.safetensors").chmod(
            0o644
        )  # safetensors lets only the owner read its files
        network = sr_lab.load(shipped.FOLDER / f"{name}.safetensors")
        figures = {set_name: measured(network, stored.scale, set_name) for set_name in SETS}
        rows += [
            {"weights": name, "scale": stored.scale, "set": set_name}
            | {"psnr_y": f"{psnr:.4f}", "ssim_y": f"{ssim:.5f}"}
            for set_name, (psnr, ssim) in figures.items()
        ]
        text = card(name, stored.scale, network, run, figures, args.photographs)
        (shipped.FOLDER / f"{name}.md").write_text(text)
    with (experiments_dir() / "ledger" / "shipped.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


@torch.inference_mode()
def measured(network: torch.nn.Module, scale: int, set_name: str) -> tuple[float, float]:
    """Mean PSNR in dB and SSIM on luma."""
    protocol, data_dir = PROTOCOLS["rgb_uint8"], os.environ.get("SR_LAB_DATA", "data")
    images = BenchmarkSet.of(set_name, data_dir=data_dir, scale=scale, protocol=protocol)
    module, found = SRModule(network, scale=scale, protocol=protocol), []
    for index in range(len(images)):
        item = images[index]
        sr = module.upscale(item["lr"][None], grey=item["grey"])
        found.append(protocol.measure(sr, item["hr"][None], scale, grey=item["grey"]))
    psnr, ssim = (float(sum(values) / len(values)) for values in zip(*found, strict=True))
    return psnr, ssim


@torch.inference_mode()
def seconds_per_megapixel(network: torch.nn.Module, scale: int) -> float:
    """Seconds of CPU time on one core for a million pixels of the result."""
    lr: Tensor = torch.rand(1, 3, 256, 256)
    times = []
    for _ in range(4):
        begun = time.process_time()
        network(lr)
        times.append(time.process_time() - begun)
    return min(times) / (256 * 256 * scale**2 / 1e6)


def card(
    name: str,
    scale: int,
    network: torch.nn.Module,
    run: Path,
    figures: dict[str, tuple[float, float]],
    photographs: Path,
) -> str:
    """The model card."""
    own = read_run(run)
    model: Any = own.settings["model"]
    lines = []
    for set_name, (psnr, ssim) in figures.items():
        printed = [f"{value:.2f}" if set_name == "Set5" else "-" for value in PRINTED[scale]]
        title = "scikit-image's photographs" if set_name == "sample" else set_name
        lines.append(f"| {title} | {psnr:.2f} / {ssim:.4f} | {' | '.join(printed)} |")
    sources = []
    with photographs.open(newline="") as file:
        for row in csv.DictReader(file):
            address = f"https://github.com/{row['repository']}/blob/{row['commit']}/{row['path']}"
            sources.append(f"| {Path(row['file']).stem} | [{row['repository']}]({address}) |")
    return CARD.format(
        name=name,
        scale=scale,
        width=model["num_feat"],
        depth=model["num_block"],
        size=f"{num_params(network):,}",
        figures="\n".join(lines),
        seconds=f"{seconds_per_megapixel(network, scale):.2f}",
        processor=processor(),
        steps=f"{own.settings.get('steps'):,}",
        rate=own.settings.get("learning_rate"),
        code=own.commit,
        seed=own.seed,
        photographs="\n".join(sources),
    )


if __name__ == "__main__":
    main()
