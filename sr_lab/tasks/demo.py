"""``task=demo``: a page in the browser that upscales the images dropped on it; needs the ``demo`` extra."""

import contextlib
import functools
import hashlib
import html
import importlib.util
import logging
import math
import os
import shlex
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from sr_lab.checkpoints.offered import Offered, offered
from sr_lab.config.schema import DemoConfig
from sr_lab.errors import ConfigError, DataError, SRLabError
from sr_lab.inference.backends import run_by
from sr_lab.inference.footprint import measured_scale
from sr_lab.inference.pictures import Progress
from sr_lab.inference.reading import read_info
from sr_lab.inference.side_by_side import Measured, SideBySide, measured, side_by_side
from sr_lab.inference.tiling import Tiled
from sr_lab.reporting.formatting import fixed
from sr_lab.system import interrupts
from sr_lab.system.devices import check_gpu, device_of, has_gpu
from sr_lab.tasks import common
from sr_lab.zoo import shipped

_HOST = "127.0.0.1"  # this machine alone
_KEPT = 3600  # seconds after which an upload is deleted although its page is still open
_WAITING = 20  # jobs in the queue
_OPEN = 2  # networks that stay in memory
_HEAD = "<h1>sr_lab</h1><p>Drop an image; it stays on this machine. The wheel zooms.</p>"
_PIXEL = 8  # bytes of a pixel in an uncompressed file with 16 bits and alpha


def run(config: DemoConfig, folder: Path, overrides: Sequence[str]) -> None:
    """Serve the page until Ctrl-C.

    Raises:
        ConfigError: Gradio is missing, the port is in use, or the task is one of several jobs.
        CheckpointError: No checkpoint is given, or one cannot be opened.
    """
    if common.in_multirun():
        raise ConfigError("task=demo: runs until Ctrl-C, so it cannot be one of several jobs; drop -m")
    with serving(config, common.console.print) as address:
        common.console.print(f"demo: {address} (Ctrl-C ends it)")
        with contextlib.suppress(interrupts.Ended):
            threading.Event().wait()


@contextlib.contextmanager
def serving(config: DemoConfig, note: Callable[[str], object]) -> Iterator[str]:
    """The address of the page, which is served until the block ends; then uploads and results are deleted.

    Args:
        config: The settings.
        note: Called with a sentence about what the weights do not determine, such as the scale.

    Raises:
        ConfigError: See `run`.
        CheckpointError: See `run`.
    """
    if importlib.util.find_spec("gradio") is None:
        raise ConfigError("task=demo: the package gradio is not installed; pip install 'sr_lab[demo]'")
    check_gpu(config.trainer.accelerator, config.trainer.devices)
    with _private_folder() as folder:
        work = Work(config, folder, note)
        page = _page(work)
        try:
            yield _launched(page, config)
        finally:
            page.close(verbose=False)
            work.end()


@contextlib.contextmanager
def _private_folder() -> Iterator[Path]:
    """A folder for uploads and results, in which Gradio keeps its files while the block runs.

    Meanwhile, Gradio sends no usage statistics, and connects to its own server without a proxy.
    """
    with tempfile.TemporaryDirectory(prefix="sr_lab-demo-", ignore_cleanup_errors=True) as folder:
        direct = ",".join(filter(None, (os.environ.get("no_proxy"), _HOST)))
        ours = {"GRADIO_TEMP_DIR": folder, "GRADIO_ANALYTICS_ENABLED": "False", "no_proxy": direct}
        before = {name: os.environ.get(name) for name in ours}
        os.environ.update(ours)
        try:
            yield Path(folder).resolve()
        finally:
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value


class Work:
    """What the page's buttons do, one job at a time.

    Args:
        config: The settings.
        folder: Where each open page gets a folder for its results.
        note: Called with a sentence about what the weights do not determine, such as the scale.

    Raises:
        CheckpointError: No checkpoint is given, or one cannot be opened.
        ConfigError: A checkpoint names a network that must not be built.
    """

    def __init__(self, config: DemoConfig, folder: Path, note: Callable[[str], object]) -> None:
        given = [config.ckpt] if isinstance(config.ckpt, str) else config.ckpt or []
        found = offered(given, measured_scale, note=note, allow=config.allow)
        if not found:
            shipped.default(None, key="ckpt", command=_command)  # raises an error that names some checkpoints
        self.offered: dict[str, dict[int, Offered]] = {}
        for each in found:
            self.offered.setdefault(each.name, {})[each.scale] = each
        self._config, self._folder, self._note = config, folder, note
        self._opened = functools.lru_cache(_OPEN)(self._open)
        self._one, self._ended = threading.Lock(), False

    def _open(self, name: str, scale: int) -> Tiled:
        config, network = self._config, self.offered[name][scale].open()
        on_gpu = has_gpu(config.trainer.accelerator)
        cache_dir = Path(config.paths.cache_dir).expanduser()
        runs = run_by(network, config.backend, cache_dir=cache_dir, on_gpu=on_gpu, note=self._note)
        tiled = Tiled(runs, tile=config.tile, like=network)
        return tiled.to(device_of(config.trainer.accelerator, config.trainer.devices))

    def look(self, image: str | None) -> str:
        """The message about an image that was dropped on the page, as HTML."""
        if image is None:
            return ""
        try:
            height, width = read_info(Path(image), self._config.most_pixels).size
        except SRLabError as error:
            return _refused(error, Path(image))
        return _soft(f"{Path(image).name}: {width}x{height} pixels")

    def upscale(
        self, image: str | None, truth: str | None, name: str, scale: int, session: str, progress: Progress
    ) -> tuple[SideBySide | None, str]:
        """Upscale an image; the earlier results of the same page are deleted.

        Args:
            image: The uploaded file.
            truth: The uploaded HR image, if any.
            name: Key of `offered`.
            scale: Key of ``offered[name]``.
            session: Identifies the page.
            progress: Called with the finished share, 0 to 1.

        Returns:
            The results, or ``None`` if the image was refused; and a message about them, as HTML.
        """
        with self._one:
            self.forget(session)
            try:
                if image is None or not Path(image).is_file():
                    raise DataError("there is no image, or it has been deleted; drop one on the page")
                made = self._made(Path(image), name, scale, self._results(session), progress)
            except (SRLabError, OSError) as error:
                return None, _refused(error, *([] if image is None else [Path(image)]))
            said = [_facts(made, name, scale)]
            if truth is not None:
                try:
                    said.append(_table(measured(made, Path(truth), scale), name))
                except (SRLabError, OSError) as error:
                    said.append(_refused(error, Path(truth), made.sr, made.bicubic))
            return made, "".join([*said, *map(_soft, made.notes)])

    def _made(self, image: Path, name: str, scale: int, folder: Path, progress: Progress) -> SideBySide:
        """The results in a new folder.

        Raises:
            DataError: The image is refused, or the page ends.
        """

        def report(share: float) -> None:
            if self._ended:
                raise DataError("the demo has ended")
            progress(share)

        report(0.0)
        folder.mkdir()
        return side_by_side(
            image,
            self._opened(name, scale),
            folder,
            max_pixels=self._config.most_pixels,
            progress=report,
            on_gpu=has_gpu(self._config.trainer.accelerator),
        )

    def end(self) -> None:
        """End the running job after its current tile, and refuse new jobs, so that no new files appear."""
        self._ended = True
        with self._one:
            pass

    def forget(self, session: str) -> None:
        """Delete the results of a page."""
        shutil.rmtree(self._results(session), ignore_errors=True)

    def _results(self, session: str) -> Path:
        """The folder of a page's results; its name is a hash, since ``session`` could be a path."""
        return self._folder / hashlib.sha256(session.encode()).hexdigest()[:32]


def _command(name: str) -> str:
    return shlex.join(["python", "-m", "sr_lab", "task=demo", f"ckpt={name}"])


def _soft(text: str) -> str:
    return f'<p class="soft">{html.escape(text)}</p>'


def _refused(error: Exception, *shown: Path) -> str:
    """An error as the page shows it; uploads and results are shown by name, without their folders."""
    said = str(error)
    for file in shown:
        said = said.replace(str(file), file.name)
    return f'<p class="refused" role="alert">{html.escape(said)}</p>'


def _facts(made: SideBySide, name: str, scale: int) -> str:
    height, width = made.lr_size
    size = made.sr.stat().st_size / 1e6
    said = (
        f"{width}x{height} to {scale * width}x{scale * height} pixels in {made.seconds:.1f} s, {size:.1f} MB"
    )
    return f"<p><b>{html.escape(name)} x{scale}</b>: {said}</p>"


def _table(found: Measured, name: str) -> str:
    rows = "".join(
        f"<tr><td>{html.escape(each)}</td><td>{fixed(psnr, 2)}</td><td>{fixed(ssim, 4)}</td></tr>"
        for each, (psnr, ssim) in (("bicubic", found.bicubic), (name, found.sr))
    )
    return f"<table><tr><th></th><th>PSNR [dB]</th><th>SSIM</th></tr>{rows}</table>{_soft(found.counting)}"


def _label(network: str) -> str:
    return f"bicubic (left), {network} (right)"


def _page(work: Work) -> Any:
    """The page, which is not served yet."""
    import gradio as gr

    first = next(iter(work.offered))

    def scales(name: str) -> dict[str, Any]:
        found = work.offered[name]  # the user's choice first
        return {"choices": [(f"x{scale}", scale) for scale in sorted(found)], "value": next(iter(found))}

    def upscale(
        image: str | None,
        truth: str | None,
        name: str,
        scale: int,
        request: gr.Request,
        progress: Callable[..., object] = gr.Progress(),  # noqa: B008 - Gradio looks for it here
    ) -> tuple[Any, Any, str]:
        made, said = work.upscale(image, truth, name, scale, str(request.session_hash), progress)
        if made is None:
            return (
                gr.ImageSlider(None, label=_label("network")),
                gr.DownloadButton(value=None, interactive=False),
                said,
            )
        shown = gr.ImageSlider((str(made.bicubic), str(made.sr)), label=_label(f"{name} x{scale}"))
        return shown, gr.DownloadButton(value=str(made.sr), interactive=True), said

    def forget(request: gr.Request) -> None:
        work.forget(str(request.session_hash))

    with gr.Blocks(title="sr_lab", analytics_enabled=False, delete_cache=(60, _KEPT)) as page:
        gr.HTML(
            "<h1>sr_lab</h1><p>Drop an image; it stays on this machine. The wheel zooms.</p>", elem_id="head"
        )
        with gr.Row():
            with gr.Column(scale=1, min_width=280):
                image = gr.File(label="Image", height=160, elem_id="image")
                truth = gr.File(label="Ground truth (optional)", height=160, elem_id="truth")
                name = gr.Dropdown(list(work.offered), value=first, label="Network", elem_id="network")
                scale = gr.Radio(**scales(first), label="Scale", elem_id="scale")
                start = gr.Button("Upscale", variant="primary", elem_id="start")
            with gr.Column(scale=3, min_width=300):
                slider = gr.ImageSlider(
                    label=_label("network"),
                    interactive=False,
                    buttons=["fullscreen"],
                    max_height=600,
                    elem_id="slider",
                )
                said = gr.HTML(elem_id="result")
                download = gr.DownloadButton("Download PNG", interactive=False, elem_id="download")
        quick = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
        name.change(lambda name: gr.Radio(**scales(name)), name, scale, **quick)
        image.change(work.look, image, said, **quick)
        start.click(
            upscale,
            [image, truth, name, scale],
            [slider, download, said],
            concurrency_limit=1,
            show_progress_on=slider,
            api_visibility="private",
        )
        page.unload(forget)
    page.queue(max_size=_WAITING)
    return page


def _launched(page: Any, config: DemoConfig) -> str:
    """Serve a page to this machine alone; returns its address."""
    import gradio as gr

    logging.getLogger("httpx").setLevel(logging.WARNING)  # it logs each request
    plain = [gr.themes.Font(name) for name in ("system-ui", "sans-serif")]  # no font to download
    most = config.most_pixels
    try:
        _, address, _ = page.launch(
            server_name=_HOST,
            server_port=config.port,
            root_path="",
            share=False,
            prevent_thread_lock=True,
            quiet=True,
            inline=False,
            ssr_mode=False,
            mcp_server=False,
            num_workers=0,
            enable_monitoring=False,
            run_history=False,
            footer_links=[],
            max_file_size=None if most == math.inf else int(2**24 + _PIXEL * most),
            theme=gr.themes.Default(primary_hue="blue", font=plain, font_mono=[gr.themes.Font("monospace")]),
            css_paths=Path(__file__).with_suffix(".css"),
        )
    except OSError as error:
        busy = config.port or "every port from 7860 on"
        raise ConfigError(f"port: {busy} is in use; choose another") from error
    return str(address)
