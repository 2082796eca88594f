"""The report's page: what it says, and what it does in a real browser (where there is one)."""

import base64
import hashlib
import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sr_lab.reporting import curves, page, pictures
from sr_lab.reporting.grid import Cell, Column, Grid, GridRow, mark_best
from sr_lab.reporting.runs import Run
from tests import chromium
from tests.chromium import Chromium
from tests.pictures import run_folder

COLUMNS = (
    Column("params", unit="K", decimals=1, key="num_params_k"),
    Column("PSNR", "Set5", "", 2, True, "Set5/psnr_y"),
    Column("SSIM", "Set5", "", 4, True, "Set5/ssim_y"),
)
HEAD = ("protocol: rgb_uint8: as papers do.", "budget: smoke", "device: CPU", "commit: 01234567")
HOSTILE = ("<script>boom()</script>", '" onload="boom()', "{{7*7}}", "</style>", "'; boom(); '", "$x$ & <b>")


def row(label: str, params: float, psnr: float, ssim: float, **more: object) -> GridRow:
    cells = (Cell(params, count=1), Cell(psnr, count=1, paper=psnr - 0.104), Cell(ssim, count=1))
    return GridRow(label, cells, "x4", **more)


def grid(*labels: str, head: tuple[str, ...] = HEAD) -> Grid:
    rows = [row(label, 700.0 - 100 * n, 30.0 + n * 1.5, 0.9 - n / 100) for n, label in enumerate(labels)]
    return Grid("osffnet table2", head, COLUMNS, tuple(mark_best(COLUMNS, rows)))


@pytest.fixture(name="runs", scope="module")
def _runs(tmp_path_factory) -> list[Run]:
    root = tmp_path_factory.mktemp("runs")
    return [
        run_folder(root, "first", psnr=30.0),
        run_folder(root, "second", psnr=31.5, seed=1),
        run_folder(root, "third", psnr=33.0, images=("one",)),
    ]


@pytest.fixture(name="text", scope="module")
def _text(runs) -> str:
    return page.render(grid("first", "second", "third"), runs, root=Path("outputs/train"))


def plain(text: str) -> str:
    """What a reader sees, roughly."""
    body = re.sub(r"<(script|style)>.*?</\1>", "", text, flags=re.DOTALL)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", "", body))


def test_the_head_says_what_by_which_protocol_where_and_with_which_seeds(text):
    said = plain(text)
    for words in ("osffnet table2", "rgb_uint8: as papers do.", "smoke", "CPU", "01234567", "0, 1"):
        assert words in said


def test_differing_budgets_are_a_warning(runs, tmp_path):
    other = run_folder(tmp_path, "other", budget="paper")
    assert 'class="warning"' in page.render(grid("a", "b"), [runs[0], other], root=tmp_path)
    assert 'class="warning"' not in page.render(grid("a", "b"), runs, root=tmp_path)
    warned = grid("a", head=(*HEAD, "warning: budgets differ between rows"))
    assert page.render(warned, [runs[0], other], root=tmp_path).count('class="warning"') == 1


def test_ours_the_papers_and_the_difference_stand_in_a_cell_best_and_second_marked(text):
    assert re.search(
        r'class="number best"[^>]*>\s*<span class="v">33.00</span><small>32.90 <b>\+0.10</b>', text
    )
    assert re.search(r'class="number second"[^>]*>\s*<span class="v">31.50</span>', text)


def test_a_row_that_was_not_measured_shows_the_papers_figure_as_such(runs):
    printed = GridRow("RCAN", (Cell(), Cell(paper=32.63), Cell()), "x4", is_ours=False, problem="not run")
    text = page.render(Grid("t", HEAD, COLUMNS, (printed,)), runs, root=Path())
    assert re.search(r'class="number printed "[^>]*>\s*<span class="v">32.63</span>', text)
    assert 'title="not run"' in text


def test_nothing_may_load_or_run_but_what_the_page_holds(text):
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)[1].replace("&#39;", "'")
    for tag in ("style", "script"):
        (content,) = re.findall(rf"<{tag}>(.*?)</{tag}>", text, flags=re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert "unsafe" not in policy
    assert not re.search(r"\sstyle=|\son[a-z]+=", re.sub(r"<script>.*?</script>", "", text, flags=re.DOTALL))
    sources = re.findall(r'(?:src|href)="([^"]{0,5})', text)
    assert {source[:5] for source in sources if not source.startswith("#")} == {"data:"}


def test_without_a_script_every_picture_stands_in_the_page_with_its_figures(text):
    assert text.count("<article") == 2
    assert re.findall(r"<figcaption>([^<]*)", text.split("</article>")[0]) == [
        *("LR, nearest", "bicubic", "first", "second", "third", "HR")
    ]
    assert "33.00 dB / 0.9000" in text


def test_settings_that_differ_and_none_that_are_alike(text):
    shown = text.split('id="settings"')[1].split("</section>")[0]
    assert "model.num_feat" in shown
    assert "multi_adds" not in shown


def test_commands_can_be_pasted(text):
    assert "python -m sr_lab task=report runs=outputs/train" in plain(text)
    assert "git checkout 0123456789abcdef" in plain(text)


def test_curves_show_every_training(runs):
    picture = curves.draw(runs)
    assert all(
        f">{name}<" in picture for name in ("first", "second", "third", "training loss", "learning rate")
    )
    assert curves.read(runs, "val/psnr_y")[0].values[-1] == pytest.approx(21.9)


def test_a_record_that_a_kill_cut_short_is_drawn_as_far_as_it_goes(tmp_path):
    run = run_folder(tmp_path, "cut")
    (run.path / "metrics.csv").write_text("step,train/loss,learning_rate\n1,0.5,1e-3\n2,,\n3,0.4,1e")
    assert curves.read([run], "train/loss")[0].values == (0.5, 0.4)
    assert curves.read([run], "learning_rate")[0].values == (0.001,)


def test_runs_without_record_or_pictures_make_a_page_all_the_same(tmp_path):
    bare = Run(tmp_path / "bare-1", problem="failed: no")
    text = page.render(grid("a"), [bare], root=tmp_path)
    assert "failed: no" in plain(text)
    assert 'id="pictures"' not in text
    assert 'id="training"' not in text


def test_a_page_that_would_be_too_large_shows_middles_and_then_fewer_images(tmp_path):
    runs = [run_folder(tmp_path, "large", images=("one", "two"), size=(400, 600))]
    found = pictures.find(runs)
    whole, said = page._albums(found, 10**8)
    assert (len(whole), whole[0].width, said) == (2, 600, "")
    size = sum(len(shot.source) for album in whole for shot in album.shots)
    cut, said = page._albums(found, size // 2)
    assert (len(cut), cut[0].width % 4) == (2, 0)
    assert cut[0].width < 400
    assert f"Middles of {cut[0].width} pixels" in said
    fewer, said = page._albums(found, 200_000)
    assert len(fewer) == 1
    assert "1 of 2 images are left out" in said


def test_a_middle_is_the_same_place_in_every_picture(tmp_path):
    (picture,) = pictures.find([run_folder(tmp_path, "a", images=("one",), size=(404, 600))])
    album = page._album(picture, 128)
    assert (album.width, album.height) == (128, 128)
    hr = pictures.load(picture.hr)[136:264, 236:364]  # (404 - 128) / 2 = 138, down to a multiple of 4
    shown = [
        np.asarray(Image.open(io.BytesIO(base64.b64decode(s.source.split(",")[1])))) for s in album.shots
    ]
    assert np.array_equal(shown[-1], hr)
    assert np.array_equal(shown[0], hr[::4, ::4])  # LR, which these folders make by leaving out


# In a browser


@pytest.fixture(name="browser", scope="module")
def _browser(tmp_path_factory):
    if chromium.path() is None:
        pytest.skip("needs a browser: apt-get install chromium")
    browser = Chromium(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


@pytest.fixture(name="shown")
def _shown(browser, text, tmp_path):
    """The page, opened from a file."""
    (tmp_path / "report.html").write_text(text)
    browser.send(
        "Emulation.setDeviceMetricsOverride", width=1200, height=900, deviceScaleFactor=1, mobile=False
    )
    browser.open((tmp_path / "report.html").as_uri())
    return browser


def complaints(browser: Chromium) -> list[dict]:
    """What the console and the content policy say."""
    logged = [entry["entry"] for entry in browser.named("Log.entryAdded")]
    return logged + browser.named("Runtime.consoleAPICalled") + browser.named("Runtime.exceptionThrown")


def requests(browser: Chromium) -> list[str]:
    """Addresses that the page asked for, itself and its own pictures left out."""
    urls = [event["request"]["url"] for event in browser.named("Network.requestWillBeSent")]
    return [url for url in urls if not url.startswith("data:") and not url.endswith("/report.html")]


def test_no_request_leaves_the_page_and_nothing_complains(shown):
    shown.run("document.querySelector('#b').selectedIndex = 5, new Promise((done) => setTimeout(done, 300))")
    assert requests(shown) == []
    assert complaints(shown) == []


def test_the_network_log_would_show_a_request(shown):
    """Guards the test above."""
    shown.run("new Image().src = 'http://127.0.0.1:9/x.png'")
    assert complaints(shown) != []


FIRST = "[...document.querySelectorAll('.results tbody .row th')].map((head) => head.textContent.trim())"


def test_a_click_on_a_head_sorts_best_first_and_a_second_one_turns_it_round(shown):
    head = "document.querySelectorAll('.results thead tr:last-child th')"
    assert shown.run(FIRST) == ["first", "second", "third"]
    shown.run(f"{head}[2].querySelector('button').click()")
    assert shown.run(FIRST) == ["third", "second", "first"]
    assert shown.run(f"{head}[2].getAttribute('aria-sort')") == "descending"
    shown.run(f"{head}[2].querySelector('button').click()")
    assert shown.run(FIRST) == ["first", "second", "third"]
    shown.run(f"{head}[1].querySelector('button').click()")
    assert shown.run(f"{head}[2].getAttribute('aria-sort')") is None


SCROLL = "document.querySelector('#pane').scrollIntoView({behavior: 'instant'})"
CLIP = "document.querySelector('#over').style.clipPath"


def test_the_slider_moves_where_left_ends(shown):
    assert "50%" in shown.run(CLIP)
    shown.run(
        "const s = document.querySelector('#slider'); s.value = 20; s.dispatchEvent(new Event('input'))"
    )
    assert "20%" in shown.run(CLIP)


def test_the_handle_is_dragged_with_the_mouse(shown):
    shown.run(SCROLL)
    x, y, width = shown.run(
        "(({left, top, width, height}) => [left + width / 2, top + height / 2, width])"
        "(document.querySelector('#pane').getBoundingClientRect())"
    )
    shown.mouse("Pressed", x, y)
    shown.mouse("Moved", x + width / 8, y)
    shown.mouse("Moved", x + width / 4, y)
    shown.mouse("Released", x + width / 4, y)
    share = float(re.search(r"([\d.]+)%", shown.run(CLIP))[1])
    assert share == pytest.approx(75, abs=1)


# For every pane: enlargement, and which pixel is in its middle.
PLACES = """[...document.querySelectorAll('#pane > img, #over img, #strip img')].map((image) => {
  const box = image.parentElement.id === 'over' ? document.querySelector('#pane') : image.parentElement;
  const zoom = image.width / 80;
  return [zoom, (box.clientWidth / 2 - parseFloat(image.style.left)) / zoom,
    (box.clientHeight / 2 - parseFloat(image.style.top)) / zoom];
})"""


def test_all_panes_zoom_and_move_together_by_whole_pixels(shown):
    shown.run("document.querySelector('#fit').click()")
    before = shown.run(PLACES)
    shown.run("document.querySelector('#in').click()")
    zoomed = shown.run(PLACES)
    assert len(zoomed) == 2 + 6 + 1
    assert {zoom for zoom, _, _ in zoomed} == {before[0][0] + 1}
    shown.run(SCROLL)
    shown.mouse("Pressed", 300, 200)
    shown.mouse("Moved", 260, 230)
    shown.mouse("Moved", 240, 260)
    shown.mouse("Released", 240, 260)
    moved = shown.run(PLACES)
    for (zoom, x, y), (_, old_x, old_y) in zip(moved, zoomed, strict=True):
        assert x - old_x == pytest.approx(60 / zoom, abs=1.5 / zoom)
        assert y - old_y == pytest.approx(-60 / zoom, abs=1.5 / zoom)
    assert shown.run("getComputedStyle(document.querySelector('#left')).imageRendering") == "pixelated"


def test_keys_choose_image_and_method_flicker_and_fit(shown):
    image = "document.querySelector('#image').value"
    assert shown.run(image) == "Set5/one@4"
    shown.press("ArrowRight")
    assert shown.run(image) == "Set5/two@4"
    shown.press("3", "Digit3")
    assert shown.run("document.querySelector('#b').value") == "first"
    shown.press("+")
    level = "document.querySelector('#level').textContent"
    high = shown.run(level)
    shown.press("z")
    assert shown.run(level) != high
    shown.run("document.querySelector('#pane').focus()")
    shown.press(" ", "Space")
    assert "100%" in shown.run(CLIP)
    shown.press(" ", "Space")
    assert "100%" not in shown.run(CLIP)
    shown.press("Escape")
    assert "50%" in shown.run(CLIP)


def test_the_error_map_is_dark_where_nothing_differs_and_bright_where_much_does(shown):
    shown.run(
        "const a = document.querySelector('#a'); a.value = 'error map'; a.dispatchEvent(new Event('change'))"
    )
    dark, bright = shown.run("""(async () => {
      await new Promise((done) => setTimeout(done, 300));
      const image = document.querySelector('#left');
      await image.decode();
      const canvas = Object.assign(document.createElement('canvas'), {width: 80, height: 60});
      canvas.getContext('2d').drawImage(image, 0, 0);
      const mean = (y) => canvas.getContext('2d').getImageData(0, y, 80, 10).data
        .filter((_, i) => i % 4 === 0).reduce((sum, value) => sum + value, 0) / 800;
      return [mean(2), mean(45)];
    })()""")
    assert dark == 0
    assert bright > 100


def test_the_address_keeps_what_is_seen(shown, tmp_path):
    shown.press("ArrowRight")
    shown.press("4", "Digit4")
    shown.run("document.querySelector('#in').click(), new Promise((done) => setTimeout(done, 400))")
    address, level = shown.run("[location.href, document.querySelector('#level').textContent]")
    shown.open("about:blank")
    shown.open(address)
    assert shown.run("[image.value, b.value, level.textContent]") == ["Set5/two@4", "second", level]


def test_names_of_others_stay_text(browser, tmp_path):
    runs = [run_folder(tmp_path / "runs", name, images=HOSTILE[:2], set_name=HOSTILE[3]) for name in HOSTILE]
    table = Grid(
        HOSTILE[0], (*HEAD, f"note: {HOSTILE[1]}", f"warning: {HOSTILE[3]}"), COLUMNS, grid(*HOSTILE).rows
    )
    page.write(tmp_path / "report.html", table, runs)
    browser.open((tmp_path / "report.html").as_uri())
    assert complaints(browser) == []
    assert requests(browser) == []
    assert browser.run("document.title") == HOSTILE[0]
    assert browser.run(FIRST) == list(HOSTILE)
    assert browser.run("[...document.querySelector('#b').options].map((option) => option.value)") == [
        *("LR, nearest", "bicubic", *HOSTILE, "HR", "error map")
    ]
    assert browser.run("document.querySelectorAll('script').length") == 1
    assert browser.run("document.querySelectorAll('style').length") == 1
    assert "49" not in browser.run("document.querySelector('#table').textContent")


def test_the_page_is_as_wide_as_a_phone(shown):
    shown.send("Emulation.setDeviceMetricsOverride", width=390, height=844, deviceScaleFactor=2, mobile=True)
    assert shown.run("document.documentElement.scrollWidth") == 390


def test_without_javascript_pictures_and_table_are_there(shown, tmp_path):
    shown.send("Emulation.setScriptExecutionDisabled", value=True)
    try:
        shown.open((tmp_path / "report.html").as_uri())
        assert shown.run("document.querySelector('#gallery').offsetHeight") > 200
        assert shown.run("document.querySelector('#viewer').offsetHeight") == 0
    finally:
        shown.send("Emulation.setScriptExecutionDisabled", value=False)
