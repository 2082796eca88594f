"""Official checkpoints open without settings and reproduce their authors' results (weights/INDEX.md)."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from sr_lab.checkpoints import catalogue
from sr_lab.checkpoints.catalogue import Entry
from sr_lab.checkpoints.reading import open_checkpoint
from sr_lab.checkpoints.weights import load_weights
from sr_lab.datasets.benchmark import BenchmarkSet
from sr_lab.protocol import PROTOCOLS
from sr_lab.training.lit_module import SRModule


@dataclass(frozen=True)
class Official:
    """A checkpoint from a network's authors, and the PSNR [dB] of their own code on Set5."""

    file: str
    option: str
    scale: int
    psnr: float
    protocol: str = "rgb_uint8"
    pair: str | None = None
    gain: float = 1.0  # largest value of the pair's images


OFFICIAL = [
    Official("IMDN/IMDN_x2.pth", "imdn", 2, 37.996, pair="IMDN"),
    Official("IMDN/IMDN_x3.pth", "imdn", 3, 34.360, pair="IMDN"),
    Official("IMDN/IMDN_x4.pth", "imdn", 4, 32.210, pair="IMDN"),
    Official("IMDN/IMDN_RTC_x2.pth", "imdn_rtc", 2, 37.311, pair="IMDN_RTC"),
    Official("RFDN/RFDN_AIM.pth", "rfdn_aim", 4, 32.159, pair="RFDN", gain=255),
    Official("BSRN/net_g_BSRN_x2.pth", "bsrn", 2, 38.083, pair="BSRN"),
    Official("BSRN/net_g_BSRN_x2.pth", "bsrn", 2, 38.099, protocol="rgb_double"),
    Official("BSRN/net_g_BSRN_x4.pth", "bsrn", 4, 32.349, pair="BSRN"),
    Official("BSRN/net_g_BSRN_x4.pth", "bsrn", 4, 32.351, protocol="rgb_double"),
    Official("CARN-M/carn_m.pth", "carn_m", 2, 37.678, pair="CARN-M"),
    Official("CARN-M/carn_m.pth", "carn_m", 3, 34.058, pair="CARN-M"),
    Official("CARN-M/carn_m.pth", "carn_m", 4, 31.883, pair="CARN-M"),
    Official("PAN/PANx4_DF2K.pth", "pan", 4, 32.131, pair="PAN"),
    Official("LBNet/LBNet-X2.pt", "lbnet", 2, 38.054, pair="LBNet", gain=255),
    Official("A2F/A2F_SD_x4.pt", "a2f_sd", 4, 32.063, pair="A2F-SD", gain=255),
    Official("VDSR/VDSR_Official.mat", "vdsr", 2, 37.527, protocol="classic_y"),
    Official("VDSR/VDSR_Official.mat", "vdsr", 3, 33.658, protocol="classic_y"),
    Official("VDSR/VDSR_Official.mat", "vdsr", 4, 31.343, protocol="classic_y"),
]

# At x4 the LR images are smallest; the other scales take up to half a minute each, as does VDSR, which
# computes at the size of the output. The other checkpoints are compared with their authors' outputs above.
LONG = {row.file for row in OFFICIAL if row.option == "vdsr"}
every_checkpoint = pytest.mark.parametrize(
    "official",
    [
        pytest.param(row, marks=pytest.mark.slow if row.scale < 4 or row.file in LONG else ())
        for row in OFFICIAL
    ],
    ids=lambda row: f"{row.option}-x{row.scale}-{row.protocol}",
)


def network(weights_dir, official):
    net = Entry(official.option, official.scale).build().eval()
    load_weights(net, open_checkpoint(str(weights_dir / official.file)))
    return net


@pytest.mark.parametrize("official", [row for row in OFFICIAL if row.pair], ids=lambda row: row.pair)
def test_the_output_equals_the_output_of_the_authors_code(weights_dir, official):
    folder = (weights_dir / official.file).parent
    pair = np.load(folder / f"io_{official.pair}_x{official.scale}.npz")
    with torch.no_grad():
        sr = network(weights_dir, official)(torch.from_numpy(pair["input"]) / official.gain)
    torch.testing.assert_close(sr, torch.from_numpy(pair["output"]) / official.gain, atol=1e-5, rtol=0)


@every_checkpoint
@torch.inference_mode()
def test_psnr_on_set5_equals_the_psnr_of_the_authors_code(data_dir, weights_dir, official):
    protocol = PROTOCOLS[official.protocol]
    images = BenchmarkSet.of("Set5", data_dir=data_dir, scale=official.scale, protocol=protocol)
    module = SRModule(network(weights_dir, official), scale=official.scale, protocol=protocol)
    psnrs = []
    for index in range(len(images)):
        item = images[index]
        sr = module.upscale(item["lr"][None], grey=item["grey"])
        psnrs.append(protocol.measure(sr, item["hr"][None], official.scale, grey=item["grey"])[0].item())
    assert sum(psnrs) / len(psnrs) == pytest.approx(official.psnr, abs=0.005)


@pytest.mark.parametrize("file", sorted({row.file for row in OFFICIAL}))
def test_a_checkpoint_identifies_its_network(weights_dir, file):
    expected = {Entry(row.option, row.scale) for row in OFFICIAL if row.file == file}
    assert set(catalogue.fitting(open_checkpoint(str(weights_dir / file)))) == expected
