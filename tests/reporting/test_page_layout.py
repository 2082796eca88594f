"""How the page looks: on a phone and a screen, light and dark, printed, and to people with impaired sight."""

from itertools import combinations

import numpy as np
import pytest

from sr_lab.reporting import page, svg
from sr_lab.reporting.table import Cell, Column, Row, Table
from tests.chromium import Chromium
from tests.pictures import run_folder

COLUMNS = (
    Column("model.setting", key="model.setting", is_setting=True),
    Column("multi-adds", unit="G", decimals=1, key="multi_adds"),
    *(
        Column(title, name, "", 2, True, f"{name}/psnr_y")
        for name in ("Set5", "Set14", "B100", "Urban100")
        for title in ("PSNR", "SSIM")
    ),
)
SIZES = {"phone": (390, 844), "screen": (1400, 900), "sheet of A4": (794, 1123)}
# Vision with only two of three kinds of cones, on linear RGB (Machado, Oliveira and Fernandes 2009).
EYES = {
    "usual": np.eye(3),
    "protanopia": [[0.1523, 1.0526, -0.2049], [0.1145, 0.7863, 0.0992], [-0.0039, -0.0481, 1.0520]],
    "deuteranopia": [[0.3673, 0.8606, -0.2280], [0.2801, 0.6725, 0.0474], [-0.0118, 0.0429, 0.9689]],
    "tritanopia": [[1.2555, -0.0767, -0.1788], [-0.0784, 0.9309, 0.1476], [0.0047, 0.6914, 0.3039]],
}


def table(rows: int) -> Table:
    made = tuple(
        Row(
            f"a_run_of_some_name_and_more_{n}",
            (Cell(text="/long/" * 9), Cell(9.0), *[Cell(30.0 + n / 10, paper=30.5)] * 8),
            "x4",
        )
        for n in range(rows)
    )
    head = ("protocol: rgb_uint8: as papers do.", "budget: smoke", "warning: budgets differ between rows")
    return Table("osffnet table2", head, COLUMNS, made)


@pytest.fixture(name="file", scope="module")
def _file(tmp_path_factory):
    """A page with everything that a page can have: large images, crops, curves, plots, warnings."""
    root = tmp_path_factory.mktemp("runs")
    runs = [
        run_folder(root, "a" * 40 + f"_{n}", images=("one",), size=(340, 400), psnr=30.0 + n, seed=n)
        for n in range(3)
    ]
    file = root / "report.html"
    file.write_text(page.render(table(50), runs, root=root))
    return file


def opened(browser: Chromium, file, size: str = "screen", mode: str = "light", media: str = "") -> Chromium:
    width, height = SIZES[size]
    browser.send(
        "Emulation.setDeviceMetricsOverride",
        width=width,
        height=height,
        deviceScaleFactor=2 if size == "phone" else 1,
        mobile=size == "phone",
    )
    features = [{"name": "prefers-color-scheme", "value": mode}]
    browser.send("Emulation.setEmulatedMedia", media=media, features=features)
    browser.open(file.as_uri())
    browser.run("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    return browser


@pytest.mark.parametrize("size", ["phone", "screen"])
def test_the_page_is_not_wider_than_the_window(browser, file, size):
    opened(browser, file, size)
    wide, room = browser.run("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
    assert wide == room


@pytest.mark.parametrize("size", ["phone", "screen"])
def test_the_navigation_stays_at_the_top_and_does_not_hide_a_heading(browser, file, size):
    opened(browser, file, size)
    browser.run("document.documentElement.style.scrollBehavior = 'auto', location.hash = '#origin'")
    top, bottom, heading = browser.run(
        "new Promise((done) => setTimeout(done, 200)).then(() => [document.querySelector('nav'),"
        " document.querySelector('#origin h2')].map((each) => each.getBoundingClientRect()))"
        ".then(([nav, head]) => [nav.top, nav.bottom, head.top])"
    )
    assert top == 0
    assert heading >= bottom


def test_a_table_with_more_to_the_right_says_so_until_it_is_scrolled_there(browser, file):
    opened(browser, file, "phone")
    shown = (
        "new Promise((done) => setTimeout(done, 100)).then(() => "
        "[document.querySelector('#table .hint').checkVisibility({visibilityProperty: true}),"
        " document.querySelector('#table .scroll').classList.contains('more')])"
    )
    assert browser.run(shown) == [True, True]
    browser.run("document.querySelector('#table .scroll').scrollLeft = 1e4")
    assert browser.run(shown) == [False, False]


def test_a_table_that_fits_has_no_hint(browser, file):
    opened(browser, file, "screen")
    assert not browser.run("document.querySelector('#origin .hint').checkVisibility()")


def test_the_name_and_the_first_psnr_fit_next_to_each_other_on_a_phone(browser, file):
    opened(browser, file, "phone")
    name, psnr = browser.run(
        "[...document.querySelectorAll('.results .row')[0].cells].filter((cell) => cell.offsetWidth)"
        ".map((cell) => cell.getBoundingClientRect()).filter((_, i) => i === 0 || i === 2)"
        ".map(({left, right}) => [left, right])"
    )
    assert 0 <= name[0] < name[1] <= psnr[0] < psnr[1] <= 390


def test_the_headers_of_a_long_table_stay_in_view(browser, file):
    opened(browser, file, "screen")
    gap = browser.run(
        "(() => { const box = document.querySelector('#table .scroll'); box.scrollTop = 600;"
        " return box.querySelector('thead').rows[0].cells[0].getBoundingClientRect().top"
        " - box.getBoundingClientRect().top; })()"
    )
    assert gap == pytest.approx(0, abs=1)


def test_the_zoomed_crops_use_the_colours_and_the_width_of_the_page(browser, file):
    colour = "getComputedStyle(document.querySelector('.crops')).backgroundColor"
    seen = set()
    for mode in ("light", "dark"):
        opened(browser, file, "phone", mode)
        seen.add(browser.run(colour))
        right = browser.run(
            "Math.max(...[...document.querySelectorAll('.crops img, .crops svg')]"
            ".map((each) => each.getBoundingClientRect().right))"
        )
        assert right <= 390
    assert len(seen) == 2
    assert "rgb(255, 255, 255)" not in seen


def test_a_small_image_fills_most_of_the_viewer_of_a_phone(browser, tmp_path):
    run = run_folder(tmp_path, "a", images=("one",), size=(200, 192), plots=False)
    (tmp_path / "report.html").write_text(page.render(table(1), [run], root=tmp_path))
    opened(browser, tmp_path / "report.html", "phone")
    share, zoom = browser.run("[left.width / pane.clientWidth, left.width / 192]")
    assert share > 0.75
    assert zoom * 2 == round(zoom * 2)  # a pixel of the image fills whole pixels of the screen


# Every visible text with its contrast to its background, with which half-transparent text is mixed.
CONTRASTS = """(() => {
  const parse = (text) => (text.match(/[\\d.]+/g) ?? []).map(Number);
  const linear = (c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
  const light = ([r, g, b]) => 0.2126 * linear(r / 255) + 0.7152 * linear(g / 255) + 0.0722 * linear(b / 255);
  const found = [];
  for (const element of document.querySelectorAll("body *")) {
    const hasText = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
    if (!hasText || !element.checkVisibility() || element.closest(".tag, select, script")) continue;
    let opacity = 1;
    let behind = null;
    for (let each = element; each; each = each.parentElement) {
      const style = getComputedStyle(each);
      opacity *= Number(style.opacity);
      const [r, g, b, a = 1] = parse(style.backgroundColor);
      if (behind === null && a > 0) behind = [r, g, b];
    }
    const colour = parse(getComputedStyle(element).color).slice(0, 3);
    const ink = colour.map((c, i) => c * opacity + behind[i] * (1 - opacity));
    const [low, high] = [light(ink), light(behind)].sort((a, b) => a - b);
    found.push([(high + 0.05) / (low + 0.05), element.textContent.trim().slice(0, 40)]);
  }
  return found;
})()"""


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_every_text_has_enough_contrast(browser, file, mode):
    opened(browser, file, "screen", mode)
    found = browser.run(CONTRASTS)
    assert len(found) > 100
    assert [(round(ratio, 2), text) for ratio, text in found if ratio < 4.5] == []


def test_every_picture_is_described(browser, file):
    opened(browser, file)
    nameless = browser.run(
        '[...document.querySelectorAll(\'#gallery img:not([alt]), #gallery img[alt=""], .crops img[alt=""],'
        " svg[role=img]:not([aria-label])')].length"
    )
    assert nameless == 0
    assert browser.run("[...document.querySelectorAll('.crops > figcaption')].length") == 1


def test_a_printed_page_is_dark_on_white_and_shows_all_pictures_and_rows(browser, file):
    opened(browser, file, "sheet of A4", "dark", "print")
    paper, ink, gallery, viewer, table_box = browser.run(
        "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color,"
        " document.querySelector('#gallery').offsetHeight, document.querySelector('#viewer').offsetHeight,"
        " ['clientHeight', 'scrollHeight'].map((key) => document.querySelector('#table .scroll')[key])]"
    )
    assert (paper, ink) == ("rgb(255, 255, 255)", "rgb(0, 0, 0)")
    assert gallery > 200
    assert viewer == 0
    assert table_box[0] >= table_box[1] - 1
    assert browser.run("document.documentElement.scrollWidth") <= 794


def linear(colour: str) -> np.ndarray:
    """Linear RGB in [0, 1] of ``#rrggbb``."""
    levels = np.array([int(colour[at : at + 2], 16) for at in (1, 3, 5)]) / 255
    return np.where(levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4)


def lab(rgb: np.ndarray) -> np.ndarray:
    """CIE L*a*b* of linear RGB, white D65."""
    xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ rgb
    x, y, z = (c ** (1 / 3) if c > 0.008856 else 7.787 * c + 16 / 116 for c in xyz / (0.9505, 1, 1.089))
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("eye", EYES)
def test_the_colours_of_curves_differ_for_every_eye(eye):
    seen = [lab(np.clip(np.array(EYES[eye]) @ linear(colour), 0, 1)) for colour in svg.COLOURS]
    distances = [np.linalg.norm(one - other) for one, other in combinations(seen, 2)]
    assert min(distances) > 18


@pytest.mark.parametrize("background", ["#ffffff", "#15171a"])
def test_the_colours_of_curves_stand_out_from_the_page(background):
    weights = (0.2126, 0.7152, 0.0722)
    for colour in svg.COLOURS:
        low, high = sorted(float(linear(each) @ weights) for each in (colour, background))
        assert (high + 0.05) / (low + 0.05) >= 3
