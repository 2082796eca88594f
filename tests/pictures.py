"""Run folders with images, as a training run leaves them, made without a network."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from sr_lab.reporting import saved_images
from sr_lab.reporting.runs import Run, read_run

METHODS = {"first": 30.0, "second": 31.5}


def hr_image(image: str, height: int = 60, width: int = 80) -> np.ndarray:
    """Noise that depends only on the image's name and size."""
    return np.random.default_rng(list(image.encode())).integers(0, 256, (height, width, 3), dtype=np.uint8)


def run_folder(
    root: Path,
    name: str,
    *,
    images: tuple[str, ...] = ("one", "two"),
    set_name: str = "Set5",
    scale: int = 4,
    psnr: float = 30.0,
    size: tuple[int, int] = (60, 80),
    plots: bool = True,
    **more: object,
) -> Run:
    """A finished run whose SR images are the HR images with some noise in their lower two thirds.

    Runs with different ``psnr`` have different losses; their other curves are the same.
    Without ``plots``, the run has neither curves nor a place in the cost plot; drawing these is slow.
    """
    folder = root / f"{saved_images.safe(name)}-{len(list(root.glob('*'))) if root.is_dir() else 0:08x}"
    folder.mkdir(parents=True)
    results = []
    for number, image in enumerate(images):
        hr = hr_image(image, *size)
        noise = np.random.default_rng(list(name.encode())).integers(0, 60, hr.shape)
        noise[: size[0] // 3] = 0
        sr = np.clip(hr.astype(int) + noise, 0, 255).astype(np.uint8)
        lr = hr[::scale, ::scale]
        files = {"hr": hr, "sr": sr, "lr": lr, "bicubic": lr.repeat(scale, 0).repeat(scale, 1)}
        for kind, pixels in files.items():
            file = saved_images.place(folder / "images", set_name, image, kind)
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(file)
        results.append(
            {
                "set_name": set_name,
                "image": image,
                "psnr_y": psnr + number,
                "ssim_y": 0.9,
                "bicubic_psnr_y": 28.0,
            }
            | {"bicubic_ssim_y": 0.8}
        )
    values = {
        "run": name,
        "scale": scale,
        "seed": 0,
        "budget": "smoke",
        "num_params": 7e5,
        "multi_adds": 4e10 if plots else None,
        "commit": "0123456789abcdef",
        "device": "CPU",
        "protocol": "rgb_uint8",
        "experiment": "train",
        f"test/{set_name}/psnr_y": psnr,
        f"test/{set_name}/ssim_y": 0.9,
        "images": results,
    }
    (folder / "metrics.json").write_text(json.dumps(values | more))
    (folder / "config.yaml").write_text(json.dumps({"model": {"_target_": "a.Net", "num_feat": len(name)}}))
    if plots:
        rows = [f"{step},{psnr / 30 / step},{1e-3 / step},{20 + step / 10}" for step in range(1, 20)]
        (folder / "metrics.csv").write_text("\n".join(["step,train/loss,learning_rate,val/psnr_y", *rows]))
    return read_run(folder)
