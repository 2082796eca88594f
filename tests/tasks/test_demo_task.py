"""``task=demo``: a page that upscales what is dropped on it, and keeps nothing."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import sr_lab
from sr_lab.checkpoints.offered import offered
from sr_lab.errors import CheckpointError, ConfigError
from sr_lab.inference.footprint import measured_scale
from sr_lab.metrics.pictures import measure
from sr_lab.tasks import demo
from sr_lab.zoo.published import published
from sr_lab.zoo.shipped import shipped
from tests import chromium, command_line
from tests.composing import compose
from tests.tiny import stored

NETWORKS = {"small": ("ecbsr_m4c16", 2), "small_x3": ("ecbsr_m4c16", 3), "slow": ("edsr", 2)}
LIMIT = 40_000  # pixels


@pytest.fixture(scope="module")
def ckpts(tmp_path_factory):
    """Files of three small networks, one of them at two scales."""
    folder = tmp_path_factory.mktemp("networks")
    for name, (option, scale) in NETWORKS.items():
        settings = {"num_feat": 128} if name == "slow" else {}
        (folder / f"{name}.safetensors").write_bytes(stored(option, scale, **settings))
    return [str(folder / f"{name}.safetensors") for name in NETWORKS]


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """An image and its ground truth, images of other shapes, one that is too large, and a text file."""
    folder = tmp_path_factory.mktemp("images")
    drawn = np.random.default_rng(0).integers(0, 256, (12, 10, 3), dtype=np.uint8)
    truth = Image.fromarray(drawn).resize((60, 72), Image.Resampling.BICUBIC)
    truth.save(folder / "truth.png")
    truth.resize((30, 36), Image.Resampling.BICUBIC).save(folder / "photo.png")
    truth.resize((30, 36)).rotate(90, expand=True).save(folder / "another.png")
    truth.resize((200, 190)).save(folder / "wide.png")
    truth.resize((190, 200)).save(folder / "tall.png")
    Image.new("RGB", (300, 200)).save(folder / "large.png")
    (folder / "notes.txt").write_text("no image")
    return folder


@pytest.fixture(autouse=True)
def _no_other_weights(tmp_path, monkeypatch):
    monkeypatch.setenv("SR_LAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("sr_lab.checkpoints.offered.shipped", dict)


def config(ckpts, *more):
    return compose("task=demo", f"ckpt=[{','.join(ckpts)}]", "trainer=cpu", f"max_pixels={LIMIT}", *more)


@pytest.fixture
def work(ckpts, tmp_path):
    folder = tmp_path / "work"
    folder.mkdir()
    return demo.Work(config(ckpts), folder, print)


def upscale(work, image, truth=None, name="small", scale=2, session="mine"):
    given = None if truth is None else str(truth)
    return work.upscale(str(image), given, name, scale, session, lambda share: None)


def pixels(file):
    with Image.open(file) as image:
        return np.asarray(image)


def test_the_results_and_figures_are_those_of_upscale_and_measure(work, ckpts, images):
    made, said = upscale(work, images / "photo.png", images / "truth.png")
    expected = np.asarray(sr_lab.upscale(images / "photo.png", sr_lab.load(ckpts[0])))
    assert made.sr.name == "photo_x2.png"
    assert np.array_equal(pixels(made.sr), expected)
    assert pixels(made.bicubic).shape == expected.shape
    assert "<b>small x2</b>: 30x36 to 60x72 pixels" in said
    for file in (made.sr, made.bicubic):
        figures = measure(file, images / "truth.png", scale=2).mean["rgb_uint8"]
        assert f"<td>{figures.psnr:.2f}</td><td>{figures.ssim:.4f}</td>" in said


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("notes.txt", "images: cannot read notes.txt: it is not one of"),
        ("large.png", "images: large.png has 300x200 pixels; allowed: 40000 in all; raise max_pixels"),
        ("moving.gif", "images: moving.gif is an animation; task=upscale upscales it frame by frame"),
        ("gone.png", "there is no image, or it has been deleted; drop one on the page"),
    ],
)
def test_what_upscale_refuses_is_refused_with_the_same_message(work, images, tmp_path, name, says):
    file = images / name
    if name == "moving.gif":
        file = tmp_path / name
        frames = [Image.new("L", (8, 8), shade) for shade in (0, 255)]
        frames[0].save(file, save_all=True, append_images=frames[1:])
    made, said = upscale(work, file)
    assert made is None
    assert says in said
    assert str(file.parent) not in said
    if name in ("notes.txt", "large.png"):
        assert says in work.look(str(file))


def test_a_ground_truth_of_another_size_is_refused_and_the_result_shown(work, images):
    made, said = upscale(work, images / "photo.png", images / "photo.png")
    assert made is not None
    assert "measure: photo_x2.png is 60x72 pixels (width x height), but photo.png is 30x36" in said
    assert "PSNR" not in said


def test_the_results_of_a_page_are_deleted_with_it_and_by_its_next_image(work, images, tmp_path):
    first, _ = upscale(work, images / "photo.png", session="first")
    second, _ = upscale(work, images / "photo.png", session="second")
    upscale(work, images / "another.png", session="first")
    assert (first.sr.exists(), second.sr.exists()) == (False, True)
    work.forget("second")
    work.forget("first")
    assert not list((tmp_path / "work").iterdir())


def test_a_page_cannot_name_the_folder_of_another_page(work, images, tmp_path):
    (tmp_path / "mine").mkdir()
    for session in ("../mine", str(tmp_path / "mine"), ""):
        made, _ = upscale(work, images / "photo.png", session=session)
        assert made.sr.parent.parent == tmp_path / "work"
        work.forget(session)
    assert (tmp_path / "mine").is_dir()
    assert (tmp_path / "work").is_dir()


def test_the_job_that_runs_when_the_page_ends_leaves_nothing(work, images, tmp_path):
    started, said = threading.Event(), []

    def progress(share):
        started.set()
        time.sleep(0.3)

    def job():
        said.append(work.upscale(str(images / "photo.png"), None, "small", 2, "mine", progress)[1])

    thread = threading.Thread(target=job)
    thread.start()
    started.wait()
    work.end()
    shutil.rmtree(tmp_path / "work")
    thread.join()
    assert "the demo has ended" in said[0]
    assert upscale(work, images / "photo.png")[0] is None
    assert not (tmp_path / "work").exists()


def test_a_name_from_an_upload_is_not_read_as_markup(work, images, tmp_path):
    file = tmp_path / "<img src=x>.txt"
    file.write_text("no image")
    assert "&lt;img src=x&gt;.txt" in upscale(work, file)[1]
    assert "<img" not in upscale(work, file)[1] + work.look(str(file))


def test_files_of_one_network_at_several_scales_are_one_choice(work):
    assert {name: list(scales) for name, scales in work.offered.items()} == {"small": [2, 3], "slow": [2]}


def test_published_weights_are_offered_if_their_file_exists_and_is_correct(tmp_path, weights_dir):
    entry, damaged = published()["imdn_rtc_x2"], published()["imdn_x2"]
    assert offered([], measured_scale, note=print) == []
    entry.file().parent.mkdir(parents=True)
    shutil.copy(weights_dir / "IMDN" / "IMDN_RTC_x2.pth", entry.file())
    damaged.file().write_bytes(bytes(damaged.size))
    (found,) = offered([], measured_scale, note=print)
    assert (found.name, found.scale) == ("imdn_rtc", 2)
    assert measured_scale(found.open()) == 2


def test_two_files_of_the_same_name_are_both_offered(ckpts, tmp_path):
    copy = Path(shutil.copy(ckpts[0], tmp_path / "small.safetensors"))
    found = offered([ckpts[0], str(copy)], measured_scale, note=print)
    assert [each.name for each in found] == ["small", str(copy)]


def test_the_weights_in_the_package_are_offered(monkeypatch):
    monkeypatch.setattr("sr_lab.checkpoints.offered.shipped", shipped)
    found = offered([], measured_scale, note=print)
    assert [(each.name, each.scale) for each in found] == [("quick", 2), ("quick", 3), ("quick", 4)]
    assert measured_scale(found[1].open()) == 3


def test_weights_are_suggested_if_there_are_none(tmp_path, monkeypatch):
    monkeypatch.setattr("sr_lab.zoo.shipped.shipped", dict)
    with pytest.raises(CheckpointError, match=r"python -m sr_lab task=demo ckpt=zoo/\w+"):
        demo.Work(compose("task=demo"), tmp_path, print)


def test_a_missing_package_is_named(monkeypatch, ckpts):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with (
        pytest.raises(ConfigError, match=r"gradio is not installed; pip install 'sr_lab\[demo\]'"),
        demo.serving(config(ckpts), print),
    ):
        pass


@pytest.mark.parametrize("wrong", ["port=0", "port=70000", "max_pixels=0", "scale=2"])
def test_a_wrong_setting_is_refused(wrong):
    with pytest.raises(ConfigError, match=wrong.partition("=")[0]):
        compose("task=demo", wrong)


class Visitor:
    """Someone who uses the page."""

    def __init__(self, browser, address):
        self.browser, self.address = browser, address
        browser.open(address)
        self.wait("document.querySelector('#start')")
        time.sleep(0.3)  # until the controls react

    def wait(self, script, seconds=120):
        until = time.monotonic() + seconds
        while not self.browser.run(f"!!({script})"):
            assert time.monotonic() < until, f"{script}: {self.browser.run('document.body.innerText')}"
            time.sleep(0.05)

    def drop(self, place, file):
        """Give the page a file, in place of an earlier one."""
        self.browser.run(f"document.querySelector('#{place} button[aria-label=\"Clear\"]')?.click()")
        self.wait(f"document.querySelector('#{place} input[type=file]')")
        root = self.browser.send("DOM.getDocument")["root"]["nodeId"]
        selector = f"#{place} input[type=file]"
        node = self.browser.send("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.browser.send("DOM.setFileInputFiles", nodeId=node, files=[str(file)])
        self.wait(f"document.querySelector('#{place}').innerText.includes('{file.name}')")

    def says(self, text):
        self.wait(f"document.querySelector('#result').innerText.includes({text!r})")

    def choose(self, network):
        """Choose a network in the list."""
        self.browser.run("document.querySelector('#network input').focus()")
        self.wait("document.querySelector('#network [role=option], [role=option]')")
        self.browser.run(
            "[...document.querySelectorAll('[role=option]')]"
            f".find((option) => option.innerText.includes({network!r}))"
            ".dispatchEvent(new MouseEvent('mousedown', {bubbles: true}))"
        )
        self.wait(f"document.querySelector('#network input').value === {network!r}")

    def remember(self):
        """Record the text that is shown in place of the result."""
        add = "window.seen += document.querySelector('#slider').innerText"
        everything = "{subtree: true, childList: true, characterData: true}"
        script = (
            f"window.seen = ''; new MutationObserver(() => {add}).observe(document.body, {everything}); 0"
        )
        self.browser.run(script)

    def start(self):
        self.browser.run("document.querySelector('#start').click()")

    def download(self, folder):
        """Press the button, and return the file."""
        folder.mkdir()
        self.browser.send("Page.setDownloadBehavior", behavior="allow", downloadPath=str(folder))
        self.browser.run("document.querySelector('#download').click()")
        until = time.monotonic() + 20
        while not (found := [file for file in folder.iterdir() if file.suffix == ".png"]):
            assert time.monotonic() < until, "nothing was downloaded"
            time.sleep(0.05)
        return found[0]


# Lists the hosts that the server asks for; sockets of the file system have no host.
AUDIT = """
import os, sys

def audit(event, values):
    if event in ("socket.connect", "socket.getaddrinfo"):
        host = values[1][0] if event == "socket.connect" and isinstance(values[1], tuple) else values[0]
        if isinstance(host, str):
            with open(os.environ["ASKED"], "a") as file:
                file.write(host + "\\n")

sys.addaudithook(audit)
"""


@pytest.fixture(scope="module")
def served(ckpts, tmp_path_factory):
    """Address of the page, and the folder of its files, which must be empty once the server has ended."""
    pytest.importorskip("gradio", reason="needs the extra: pip install 'sr_lab[demo]'")
    folder = tmp_path_factory.mktemp("served")
    (folder / "tmp").mkdir()
    (folder / "sitecustomize.py").write_text(AUDIT)
    words = (f"ckpt=[{','.join(ckpts)}]", "trainer=cpu", f"max_pixels={LIMIT}")
    ours = {"TMPDIR": str(folder / "tmp"), "PYTHONPATH": os.pathsep.join([str(folder), *sys.path])}
    process = subprocess.Popen(
        [sys.executable, "-m", "sr_lab", "task=demo", *words],
        cwd=folder,
        env=command_line.environment_in(folder) | ours | {"ASKED": str(folder / "asked.txt")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        said = process.stdout.readline()
        found = re.fullmatch(r"demo: (http://127\.0\.0\.1:\d+/) \(Ctrl-C ends it\)\n", said)
        assert found, said + process.stdout.read()
        yield found[1], folder / "tmp"
        process.send_signal(signal.SIGINT)
        assert process.wait(120) == 0
        assert process.stdout.read() == ""
        assert not list((folder / "tmp").iterdir())
        asked = (folder / "asked.txt").read_text().splitlines()
        assert asked
        assert {host for host in asked if host not in ("127.0.0.1", "localhost")} == set()
    finally:
        process.kill()
        process.stdout.close()
        process.wait()


def test_an_image_is_dropped_compared_measured_and_downloaded(served, browser, ckpts, images, tmp_path):
    address, _ = served
    visitor = Visitor(browser, address)
    visitor.drop("image", images / "notes.txt")
    visitor.says("cannot read notes.txt")
    visitor.drop("image", images / "large.png")
    visitor.says("large.png has 300x200 pixels; allowed: 40000 in all")
    visitor.drop("image", images / "photo.png")
    visitor.says("photo.png: 30x36 pixels")
    visitor.drop("truth", images / "truth.png")
    visitor.start()
    visitor.says("small x2: 30x36 to 60x72 pixels in")
    visitor.says("PSNR")
    visitor.wait("[...document.querySelectorAll('#slider img')].every((image) => image.naturalWidth === 60)")
    assert browser.run("document.querySelectorAll('#slider img').length") == 2
    file = visitor.download(tmp_path / "downloads")
    assert file.name == "photo_x2.png"
    expected = np.asarray(sr_lab.upscale(images / "photo.png", sr_lab.load(ckpts[0])))
    assert np.array_equal(pixels(file), expected)
    asked = [event["request"]["url"] for event in browser.named("Network.requestWillBeSent")]
    assert len(asked) > 10
    assert not [url for url in asked if not url.startswith((address, "data:", "blob:"))]
    assert not browser.named("Log.entryAdded")


@pytest.mark.slow
def test_two_people_at_once_are_served_in_turn_and_leave_nothing(served, browser, ckpts, images, tmp_path):
    address, kept = served
    other = chromium.Chromium(tmp_path / "profile")
    try:
        first, second = Visitor(browser, address), Visitor(other, address)
        for visitor, name in ((first, "wide.png"), (second, "tall.png")):
            visitor.drop("image", images / name)
            visitor.choose("slow")
            visitor.remember()
        first.start()
        first.wait("seen.includes('processing')")
        second.start()
        first.says("slow x2: 200x190 to 400x380 pixels in")
        second.says("slow x2: 190x200 to 380x400 pixels in")
        assert second.browser.run("seen.includes('queue: 1/1')")
        model = sr_lab.load(ckpts[2])
        for visitor, name in ((first, "wide"), (second, "tall")):
            file = visitor.download(tmp_path / name)
            assert file.name == f"{name}_x2.png"
            assert np.array_equal(pixels(file), np.asarray(sr_lab.upscale(images / f"{name}.png", model)))
        assert len(list(kept.glob("sr_lab-demo-*/*/tall_x2.png"))) == 1
    finally:
        other.close()
    until = time.monotonic() + 30
    while list(kept.glob("sr_lab-demo-*/*/tall_x2.png")):
        assert time.monotonic() < until, "the results of a closed page are kept"
        time.sleep(0.2)


@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 1400])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fits_a_telephone_and_a_screen(served, browser, images, width, scheme):
    browser.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.send("Emulation.setDeviceMetricsOverride", **size)
    visitor = Visitor(browser, served[0])
    visitor.drop("image", images / "photo.png")
    visitor.start()
    visitor.says("small x2: 30x36 to 60x72 pixels in")
    assert browser.run("document.documentElement.scrollWidth") <= width
    assert browser.run("document.querySelector('#start').getBoundingClientRect().height") >= 36
    paper = browser.run("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", paper)[:3])) < 200) == (scheme == "dark")


@pytest.mark.slow
def test_the_wheel_zooms_both_images_and_a_drag_moves_the_slider(served, browser, images):
    visitor = Visitor(browser, served[0])
    visitor.drop("image", images / "wide.png")
    visitor.start()
    visitor.says("small x2: 200x190 to 400x380 pixels in")
    visitor.wait("document.querySelectorAll('#slider img').length === 2")
    place = "(({x, y, width, height}) => [x + width / 2, y + height / 2])"
    style = "[...document.querySelectorAll('#slider img')].map((image) => image.style.cssText).join()"
    x, y = browser.run(f"{place}(document.querySelector('#slider img').getBoundingClientRect())")
    before = browser.run(style)
    browser.mouse("Pressed", x, y)
    browser.mouse("Moved", x - 60, y)
    browser.mouse("Released", x - 60, y)
    moved = browser.run(style)
    assert moved != before
    browser.send("Input.dispatchMouseEvent", type="mouseWheel", x=x, y=y, deltaX=0, deltaY=-300)
    visitor.wait(f"{style} !== {moved!r}")


@pytest.mark.slow
def test_a_port_in_use_is_named_and_nothing_is_left(ckpts, tmp_path):
    pytest.importorskip("gradio", reason="needs the extra: pip install 'sr_lab[demo]'")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        words = (f"ckpt=[{','.join(ckpts)}]", "trainer=cpu", f"port={port}")
        done = command_line.sr_lab(tmp_path, "task=demo", *words, TMPDIR=str(tmp_path))
    assert done.returncode == 2
    assert f"port: {port} is in use; choose another" in done.stderr
    assert not list(tmp_path.glob("sr_lab-demo-*"))
