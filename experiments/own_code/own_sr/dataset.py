"""A plain torch Dataset of pairs."""

import hashlib
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset


class HalvedImages(Dataset[dict[str, Tensor]]):
    """Patches of all PNG files of a folder, and the same patches downscaled by averaging, not by bicubic.

    Args:
        folder: Folder of HR images.
        scale: Upscaling factor r.
        lr_patch_size: Side p of the LR patch.
    """

    def __init__(self, *, folder: str, scale: int, lr_patch_size: int = 24) -> None:
        self.files = sorted(Path(folder).expanduser().glob("*.png"))
        self.scale = scale
        self.hr_size = scale * lr_patch_size

    def __len__(self) -> int:
        """Number of images."""
        return len(self.files)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """``lr (3, p, p)`` and ``hr (3, rp, rp)``, both in [0, 1]."""
        with Image.open(self.files[index]) as image:
            width, height = image.size
            left = int(torch.randint(width - self.hr_size + 1, ()))
            top = int(torch.randint(height - self.hr_size + 1, ()))
            hr = image.convert("RGB").crop((left, top, left + self.hr_size, top + self.hr_size))
        lr = hr.reduce(self.scale)  # the mean of each square
        return {"lr": _tensor(lr), "hr": _tensor(hr)}

    def manifest(self) -> str:
        """Identifies the images: changed images start a new run. You may leave this method out."""
        return hashlib.sha256(b"".join(file.read_bytes() for file in self.files)).hexdigest()


def _tensor(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255
