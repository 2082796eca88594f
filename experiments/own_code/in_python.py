"""Your own code from Python: compose, train with a plain Lightning Trainer, load a run, upscale, plot.

The notebook in_python.ipynb has the same cells. Run them in this folder, after the README's first command.
"""

# %% Three photographs to train on
from pathlib import Path

import lightning
import matplotlib.pyplot as plt
import torch
from own_sr.dataset import HalvedImages
from own_sr.loss import EdgeLoss
from PIL import Image
from skimage import data as photographs

import sr_lab
from sr_lab.checkpoints.opening import build_network
from sr_lab.protocol import PROTOCOLS
from sr_lab.training.data_module import SRDataModule
from sr_lab.training.lit_module import SRModule

Path("photos").mkdir(exist_ok=True)
for name in ("astronaut", "coffee", "chelsea"):
    Image.fromarray(getattr(photographs, name)()).save(f"photos/{name}.png")

# %% A network as the command line would build it
config = sr_lab.compose(
    "model=small_net", "upsampler=nearest", "scale=2", "allow=[own_sr]", config_dir="own_sr/conf"
)
network = build_network(config, config.allow)

# %% Ten steps with a plain Lightning Trainer
module = SRModule(
    network,
    scale=2,
    protocol=PROTOCOLS["rgb_uint8"],
    loss=EdgeLoss(),
    make_optimizer=lambda parameters: torch.optim.Adam(parameters, lr=1e-3),
)
patches = SRDataModule(train=HalvedImages(folder="photos", scale=2), batch_size=4)
trainer = lightning.Trainer(max_steps=10, accelerator="cpu", logger=False, enable_checkpointing=False)
trainer.fit(module, patches)

# %% A run of the command line, and the results of both networks on one image
run = max(Path("outputs/train").glob("small_net_*"), key=lambda folder: folder.stat().st_mtime)
trained = sr_lab.load(run, allow=["own_sr"])
with Image.open("photos/chelsea.png") as photograph:
    lr = photograph.crop((100, 60, 164, 124))
pictures = {
    "LR": lr,
    "bicubic": lr.resize((128, 128), Image.Resampling.BICUBIC),
    "ten steps": sr_lab.upscale(lr, network.eval()),
    "the run": sr_lab.upscale(lr, trained),
}

# %% A figure
figure, axes = plt.subplots(1, len(pictures), figsize=(10, 3))
for axis, (title, picture) in zip(axes, pictures.items(), strict=True):
    axis.imshow(picture)
    axis.set_title(title)
    axis.axis("off")
figure.savefig("outputs/in_python.png")
