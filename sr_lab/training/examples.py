"""Example images of a test: the results for the first images of each set, or for named images."""

import io
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, get_args

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import Logger, WandbLogger
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from sr_lab import files
from sr_lab.datasets.benchmark import BenchmarkSet
from sr_lab.datasets.names import is_scene
from sr_lab.errors import ConfigError, did_you_mean
from sr_lab.ops.colour import rgb_to_y
from sr_lab.reporting import saved_images
from sr_lab.training.lit_module import Measured, SRModule
from sr_lab.training.loggers import log_to_dashboards

_ALL_SCALES = 24  # the least common multiple of 2, 3, 4 and 8
_SMALL_SET = 5  # a set of up to this many images is saved whole
_GUTTER = 2  # white columns between the images of a strip
CAPTION = 18  # rows of a strip above its images


class ExampleImages(Callback):
    """Saves some images of each test set, so that a report needs neither data nor network.

    A strip with captions shows the middle of an image as LR, bicubic, SR, HR and error, at the same position
    for every network and every scale that divides 24. These images are also saved whole, as are all images of
    a small set unless images are named (`reporting.saved_images` names the files). A thread writes the files
    while the test continues; the test waits for it at the end.

    Args:
        folder: Where the PNG files are written.
        keep: How many of the first images of each set to save, or the names of images (`names.is_scene`).
        size: Side of the strip's crop in HR pixels.
    """

    def __init__(self, folder: Path, *, keep: int | Sequence[str] = 3, size: int = 160) -> None:
        self.folder = folder
        self.keep = keep
        self.size = size
        self._writing: list[Future[None]] = []

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the thread."""
        self._writer = ThreadPoolExecutor(1)

    def on_test_batch_end(  # type: ignore[override]
        self, trainer: Trainer, module: SRModule, outputs: Measured, batch: dict[str, Any], *_: object
    ) -> None:
        """Save the pictures of an image if it is one of those to keep."""
        if outputs is None:
            return
        set_name, name, hr = outputs["set_name"], outputs["image"], batch["hr"].float() / 255
        whole, strip_file = self._files(set_name, name, batch["place"], batch["of"])
        images: dict[saved_images.Kind, Tensor] = {
            "lr": outputs["lr"],
            "bicubic": outputs["bicubic"],
            "sr": outputs["sr"],
            "hr": hr,
        }
        for kind, file in whole.items():
            self._write(_picture(images[kind][0]), file)
        if strip_file is None:
            return
        psnr, _, bicubic_psnr, _ = outputs["figures"].tolist()
        captions = ("LR", f"bicubic {bicubic_psnr:.2f} dB", f"SR {psnr:.2f} dB", "HR", "error x4")
        strip = _captioned(_picture(self._strip(outputs, hr, module.scale)), captions)
        picture = self._write(strip, strip_file)

        def log(logger: Logger) -> None:
            if isinstance(logger, WandbLogger):
                caption = ", ".join(captions)
                key = f"examples/{set_name}/{name}"
                logger.log_image(key, [picture], step=trainer.global_step, caption=[caption])

        log_to_dashboards(trainer, log)

    def has(self, set_name: str, name: str, place: int, of: int) -> bool:
        """Whether all pictures of image number ``place`` in a set of ``of`` images have been written."""
        whole, strip = self._files(set_name, name, place, of)
        return all(file.is_file() for file in (*whole.values(), strip) if file is not None)

    def _files(
        self, set_name: str, name: str, place: int, of: int
    ) -> tuple[dict[saved_images.Kind, Path], Path | None]:
        """The files of the whole images, and the file of the strip, if they are wanted."""
        kinds: tuple[saved_images.Kind, ...] = get_args(saved_images.Kind)
        if isinstance(self.keep, int):
            has_strip, is_whole = place < self.keep, of <= _SMALL_SET and self.keep > 0
        else:
            has_strip, is_whole = any(is_scene(given, name) for given in self.keep), False
        whole = kinds if has_strip or is_whole else ()
        files = {kind: saved_images.place(self.folder, set_name, name, kind) for kind in whole}
        return files, self.folder / f"{set_name}_{name}.png" if has_strip else None

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Wait for the pictures; an error while writing a picture is raised here."""
        self._writer.shutdown()
        written, self._writing = self._writing, []
        for picture in written:
            picture.result()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Wait for the pictures: an image without its pictures would be measured again."""
        if hasattr(self, "_writer"):
            self._writer.shutdown()

    def _write(self, picture: Image.Image, path: Path) -> Image.Image:
        self._writing.append(self._writer.submit(_write_png, picture, path))
        return picture

    def _strip(self, outputs: Measured, hr: Tensor, scale: int) -> Tensor:
        """``(C, S, 5 S + gutters)`` in [0, 1]."""
        lr = outputs["lr"].repeat_interleave(scale, dim=2).repeat_interleave(scale, dim=3)
        images = [image.to(hr) for image in (lr, outputs["bicubic"], outputs["sr"], hr)]
        if min(image.shape[1] for image in images) == 1:  # one of the images is luma
            images = [rgb_to_y(image) if image.shape[1] == 3 else image for image in images]
        error = (images[2].clamp(0, 1) - images[3]).abs() * 4  # a typical error of 0.02 is invisible
        # Images are cropped to a multiple of their scale; a common multiple gives all scales the same middle.
        height, width = (length // _ALL_SCALES * _ALL_SCALES or length for length in hr.shape[-2:])
        side = min(self.size, height, width)
        top, left = (height - side) // 2, (width - side) // 2
        panes = [image[0, :, top : top + side, left : left + side] for image in (*images, error)]
        gutter = torch.ones_like(panes[0][:, :, :_GUTTER])
        return torch.cat([part for pane in panes for part in (pane, gutter)][:-1], dim=2)


def check_names(examples: int | Sequence[str], sets: Sequence[BenchmarkSet]) -> None:
    """Refuse the name of an example image that no test set has.

    Raises:
        ConfigError: There is no such image; the message names the sets and the most similar name.
    """
    stems = [file.stem for images in sets for file in images.files]
    for name in () if isinstance(examples, int) else examples:
        if not any(is_scene(name, stem) for stem in stems):
            raise ConfigError(
                f"examples: there is no image '{name}' in {', '.join(images.name for images in sets)}; "
                f"give names of images in benchmark.sets, or a number per set{did_you_mean(name, stems)}"
            )


def not_kept(images: Path, examples: int | Sequence[str]) -> list[str]:
    """The names of example images that are missing from a run folder's ``images``."""
    stems = [file.name.removesuffix(".sr.png") for file in images.glob("*/*.sr.png")]
    names = () if isinstance(examples, int) else examples
    return [name for name in names if not any(is_scene(name, stem) for stem in stems)]


def _picture(image: Tensor) -> Image.Image:
    """``(C, H, W)`` in [0, 1] as 8-bit RGB, quantised as for measuring, with luma as grey."""
    levels = (image.detach().clamp(0, 1) * 255 + 0.5).floor().byte()
    return Image.fromarray(levels.expand(3, -1, -1).permute(1, 2, 0).cpu().numpy())


def _captioned(strip: Image.Image, captions: Sequence[str]) -> Image.Image:
    """A strip of equally wide images with a caption above each; a caption that is too wide is left out."""
    made = Image.new("RGB", (strip.width, strip.height + CAPTION), "white")
    made.paste(strip, (0, CAPTION))
    draw = ImageDraw.Draw(made)
    width = (strip.width + _GUTTER) // len(captions)
    font = ImageFont.load_default(13)
    for number, caption in enumerate(captions):
        if draw.textlength(caption, font) <= width - _GUTTER:
            place = (number * width + (width - _GUTTER) / 2, CAPTION / 2)
            draw.text(place, caption, "black", font, anchor="mm")
    return made


def _write_png(picture: Image.Image, path: Path) -> None:
    buffer = io.BytesIO()
    # Level 1 takes a third of the default's time, and the file is a sixth larger.
    picture.save(buffer, "PNG", compress_level=1)
    files.write(path, buffer.getvalue())
