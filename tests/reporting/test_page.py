"""The report's page: its content, and its behaviour in a real browser if one is installed."""

import base64
import hashlib
import html
import io
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sr_lab.analysis import drawing
from sr_lab.reporting import curves, page, saved_images
from sr_lab.reporting.latex import to_latex
from sr_lab.reporting.markdown import to_markdown
from sr_lab.reporting.page_table import BarChart, bar_charts
from sr_lab.reporting.runs import Run, read_run
from sr_lab.reporting.safe_csv import table_to_csv
from sr_lab.reporting.table import Cell, Column, ImageGain, Row, Table, mark_best
from tests import references
from tests.chromium import Chromium
from tests.pictures import run_folder

COLUMNS = (
    Column("params", unit="K", decimals=1, key="num_params_k"),
    Column("PSNR", "Set5", "", 2, True, "Set5/psnr_y"),
    Column("SSIM", "Set5", "", 4, True, "Set5/ssim_y"),
)
HEAD = ("protocol: rgb_uint8: as papers do.", "budget: smoke", "device: CPU", "commit: 01234567")
HOSTILE = ("<script>boom()</script>", '" onload="boom()', "{{7*7}}", "</style>", "'; boom(); '", "$x$ & <b>")


def row(label: str, params: float, psnr: float, ssim: float, **more: object) -> Row:
    cells = (Cell(params, count=1), Cell(psnr, count=1, paper=psnr - 0.104), Cell(ssim, count=1))
    return Row(label, cells, "x4", **more)


def table(*labels: str, head: tuple[str, ...] = HEAD) -> Table:
    rows = [row(label, 700.0 - 100 * n, 30.0 + n * 1.5, 0.9 - n / 100) for n, label in enumerate(labels)]
    return Table("osffnet table2", head, COLUMNS, tuple(mark_best(COLUMNS, rows)))


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
    return page.render(table("first", "second", "third"), runs, root=Path("outputs/train"))


def plain(text: str) -> str:
    """Approximate text of a page as a reader sees it."""
    body = re.sub(r"<(script|style)>.*?</\1>", "", text, flags=re.DOTALL)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", "", body))


def test_the_header_gives_the_title_protocol_budget_device_and_commit(text):
    said = plain(text)
    for words in ("osffnet table2", "rgb_uint8: as papers do.", "smoke", "CPU", "01234567"):
        assert words in said


def test_a_warning_in_the_header_is_marked_as_a_warning(text):
    assert 'class="warning"' not in text
    warned = table("a", head=(*HEAD, "warning: budgets differ between rows"))
    (shown,) = re.findall('class="warning"[^>]*>([^<]*)', page.render(warned, [], root=Path()))
    assert shown == "budgets differ between rows"


def test_a_cell_shows_the_measured_figure_the_papers_figure_and_the_difference(text):
    assert re.search(
        r'class="number best"[^>]*>\s*<span class="v">33.00</span><small>32.90 <b>\+0.10</b>', text
    )
    assert re.search(r'class="number second"[^>]*>\s*<span class="v">31.50</span>', text)


def test_an_unmeasured_row_shows_the_papers_figure_as_printed():
    printed = Row("RCAN", (Cell(), Cell(paper=32.63), Cell()), "x4", is_ours=False, problem="not run")
    text = page.render(Table("t", HEAD, COLUMNS, (printed,)), [], root=Path())
    assert re.search(r'class="number printed "[^>]*>\s*<span class="v">32.63</span>', text)
    assert 'title="not run"' in text


def test_only_content_of_the_page_itself_may_load_or_run(text):
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


def test_every_image_and_its_scores_are_in_the_page_without_a_script(text):
    assert text.count("<article") == 2
    assert re.findall(r"<figcaption>([^<]*)", text.split("</article>")[0]) == [
        *("LR, nearest", "bicubic", "first", "second", "third", "HR")
    ]
    assert "33.00 dB / 0.9000" in text


def test_only_settings_that_differ_are_listed(text):
    shown = text.split('id="settings"')[1].split("</section>")[0]
    assert "model.num_feat" in shown
    assert "multi_adds" not in shown


def test_commands_can_be_pasted_into_a_shell(text):
    assert "python -m sr_lab task=report runs=outputs/train" in plain(text)
    assert "git checkout 0123456789abcdef" in plain(text)


def test_the_command_of_a_table_repeats_the_overrides_of_the_sweep():
    given = ("experiment=imfm/table2_schedules", "budget=smoke", "dataset.hr_dir=my photos")
    of_table = {"table": {"paper": "imfm", "name": "table2"}}
    jobs = [
        Run(Path("a-1"), of_table, overrides=(f"row={row}", f"scale={scale}", *given))
        for row, scale in ((0, 2), (1, 4))
    ]
    text = page.render(table("first"), jobs, root=Path())
    (command,) = re.findall("<code>(.*experiment=.*)</code>", text)
    wanted = "experiment=imfm/table2_schedules scale=2,4 budget=smoke 'dataset.hr_dir=my photos'"
    assert html.unescape(command) == f"python -m sr_lab {wanted}"


def test_the_table_can_be_copied_in_other_formats(text):
    shown = text.split('id="table"')[1].split("</section>")[0]
    forms = dict(re.findall("<span>(table[^<]*)</span><pre><code>(.*?)</code>", shown, flags=re.DOTALL))
    whole = table("first", "second", "third")
    assert {file: html.unescape(said) for file, said in forms.items()} == {
        "table.md": to_markdown(whole),
        "table.csv": table_to_csv(whole),
        "table.tex": to_latex(whole),
        "table_paired.tex": to_latex(whole, paired=True),
    }


def test_commands_contain_relative_paths_where_possible(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = page.render(table("first"), [Run(tmp_path / "runs" / "a-1")], root=tmp_path / "runs")
    commands = re.findall(r"<pre><code>(.*?)</code>", text)
    assert "python -m sr_lab task=report runs=runs" in commands
    assert not any(str(tmp_path) in command for command in commands)


def test_a_long_setting_is_shortened_and_complete_in_the_tooltip():
    path = "/a/very/long/way/to/weights/of/a/network/IMDN_x4.pth"
    columns = (Column("ckpt", key="ckpt", is_setting=True), *COLUMNS)
    own = row("a", 1.0, 30.0, 0.9)
    text = page.render(
        Table("t", HEAD, columns, (Row("a", (Cell(text=path), *own.cells), "x4"),)), [], root=Path()
    )
    cell = re.search(r'<td class="setting[^>]*title="([^"]*)"[^>]*>\s*<span class="v">([^<]*)', text)
    assert cell[1] == path
    assert cell[2].endswith("/IMDN_x4.pth")
    assert len(cell[2]) == 24


def gains(*values: float, set_name: str = "Set5") -> tuple[ImageGain, ...]:
    return tuple(ImageGain(set_name, f"img_{n}", 30.0 + n, value) for n, value in enumerate(values))


def chart(*values: float, others: tuple[float, ...] = ()) -> BarChart:
    rows = (row("a", 1, 30, 0.9, images=gains(*values)), row("b", 1, 30, 0.9, images=gains(*others)))
    return bar_charts(Table("t", HEAD, COLUMNS, rows))[rows[0], COLUMNS[1].key]


def test_a_chart_has_a_bar_for_each_image_on_the_scale_of_its_column():
    line = chart(0.5, -0.25, others=(1.0,))
    assert line.bars(1) == "M0.0 0h31.0v-4.0h-31.0z"
    assert line.bars(-1) == "M32.0 0h31.0v2.0h-31.0z"


def test_a_chart_names_the_five_images_with_the_largest_losses():
    line = chart(0.1, -0.2, 0.3, -0.4, 0.5, 0.0, 0.6)
    assert line.worst == [
        *(("img_3", "33.00", "-0.40"), ("img_1", "31.00", "-0.20"), ("img_5", "35.00", "0.00")),
        *(("img_0", "30.00", "+0.10"), ("img_2", "32.00", "+0.30")),
    ]
    assert "img_3 33.00 (-0.40)" in line.description


def test_only_the_psnr_column_of_a_measured_set_has_a_chart():
    own = row("a", 1, 30, 0.9, images=gains(0.1))
    assert list(bar_charts(Table("t", HEAD, COLUMNS, (own,)))) == [(own, "Set5/psnr_y")]
    assert bar_charts(table("a")) == {}


def test_the_curves_show_every_training_run(runs, text):
    shown = text.split('id="training"')[1].split("</section>")[0]
    _, *panels = shown.split('<figure class="figure">')
    assert [re.match("<h3>([^<]*)", panel)[1] for panel in panels] == [
        *("training loss", "PSNR, validation [dB]", "learning rate")
    ]
    for panel in panels:
        assert {index for line in re.findall('data-run="([^"]*)"', panel) for index in line.split()} == set(
            "012"
        )
    assert curves.read(runs, "val/psnr_y")[0].values[-1] == pytest.approx(21.9)
    assert "the training was interrupted" not in shown


def test_runs_with_the_same_curve_share_one_line_that_says_how_many_they_are(runs, tmp_path):
    panels = dict(curves.draw(runs).panels)
    lines = {title: re.findall('data-run="([^"]*)"', plot) for title, plot in panels.items()}
    assert lines == {
        "training loss": ["0", "1", "2"],
        "PSNR, validation [dB]": ["0 1 2"],
        "learning rate": ["0 1 2"],
    }
    assert "3 runs" in panels["learning rate"]
    assert "3 runs" not in panels["training loss"]


def recorded(tmp_path, rows: str) -> Run:
    run = run_folder(tmp_path, "recorded")
    (run.path / "metrics.csv").write_text(rows)
    return read_run(run.path)


def test_every_quantity_has_a_panel_and_every_panel_marks_a_restart(tmp_path):
    columns = (
        "step,time,data_wait,val/psnr_y,val/held_out/psnr_y,val/Set5/psnr_y,val/Set5/ssim_y,gpu_memory_bytes"
    )
    times = [100, 101, 102, 9000, 9001]
    rows = [f"{step},{time},0.25,,,,," for step, time in enumerate(times, start=1)]
    run = recorded(
        tmp_path, "\n".join([columns, *rows, "5,9002,,29,30,28,0.8,1048576", "6,9003,,30,31,29,0.8,2097152"])
    )
    training = curves.draw([run])
    assert [title for title, _ in training.panels] == [
        *("PSNR, held out [dB]", "PSNR, Set5 [dB]", "waiting for data [% of the time]", "gpu memory [MiB]")
    ]
    assert training.has_restarts
    assert [plot.count('data-run="0"') for _, plot in training.panels] == [
        2
    ] * 4  # the curve and the line of the restart
    assert curves.read([run], "val/Set5/psnr_y")[0].values == (28, 29)


def clocked(tmp_path, *times: float, validated: tuple[int, ...] = ()) -> Run:
    """A run with one recorded row for each given time; ``validated`` lists the steps with a validation."""
    lines = [f"{step},{time},{30 if step in validated else ''}" for step, time in enumerate(times, start=1)]
    return recorded(tmp_path, "\n".join(["step,time,val/psnr_y", *lines]))


def test_the_start_of_the_last_attempt_is_read_from_the_lock_file(tmp_path):
    run = clocked(tmp_path, 100, 101, 102, 104, 105)
    assert curves.restarts(run) == ()
    (run.path / ".lock").write_text("103.5\n")
    assert curves.restarts(run) == (3,)
    (run.path / ".lock").write_text("99.5\n")
    assert curves.restarts(run) == ()


def test_an_earlier_interruption_is_detected_by_its_pause(tmp_path):
    assert curves.restarts(clocked(tmp_path / "a", 100, 105, 110, 1000, 1005)) == (3,)
    assert curves.restarts(clocked(tmp_path / "b", 100, 105, 110, 168, 173)) == ()  # less than a minute
    assert curves.restarts(clocked(tmp_path / "c", 100, 105, 110, 1000, 1005, validated=(4,))) == ()


def test_a_curve_with_many_points_is_thinned_but_keeps_its_ends(tmp_path):
    run = recorded(tmp_path, "step,train/loss\n" + "\n".join(f"{n},0.5" for n in range(1, 1002)))
    (curve,) = curves.read([run], "train/loss")
    assert (curve.steps[0], curve.steps[-1]) == (1, 1001)
    assert len(curve.steps) <= 201


def test_a_run_adds_a_bounded_number_of_bytes_to_the_curves(tmp_path):
    steps = range(1, 1002)
    runs = []
    for seed in range(4):
        runs.append(run_folder(tmp_path, f"run {seed}", images=()))
        noise = np.random.default_rng(seed).uniform(0.1, 1, (1001, 2))
        rows = [f"{step},{one},{two}" for step, (one, two) in zip(steps, noise, strict=True)]
        (runs[-1].path / "metrics.csv").write_text("\n".join(["step,train/loss,learning_rate", *rows]))
    sizes = [sum(len(plot) for _, plot in curves.draw(runs[:count]).panels) for count in (1, 4)]
    points, panels, of_point = 201, 2, 13  # L 123.4 567.8
    assert sizes[1] - sizes[0] <= 3 * panels * (points * of_point + 200)


def test_an_incomplete_record_is_read_as_far_as_possible(tmp_path):
    run = recorded(tmp_path, "step,train/loss,learning_rate\n1,0.5,1e-3\n2,,\n3,0.4,1e")
    assert curves.read([run], "train/loss")[0].values == (0.5, 0.4)
    assert curves.read([run], "learning_rate")[0].values == (0.001,)


def test_runs_without_a_record_or_images_still_give_a_page(tmp_path):
    bare = Run(tmp_path / "bare-1", problem="failed: no")
    text = page.render(table("a"), [bare], root=tmp_path)
    assert "failed: no" in plain(text)
    assert 'id="images"' not in text
    assert 'id="training"' not in text


# Behaviour in a browser


@pytest.fixture(name="shown")
def _shown(browser, text, tmp_path):
    """A browser that has opened the page from a file."""
    (tmp_path / "report.html").write_text(text)
    browser.send(
        "Emulation.setDeviceMetricsOverride", width=1200, height=900, deviceScaleFactor=1, mobile=False
    )
    browser.open((tmp_path / "report.html").as_uri())
    return browser


def complaints(browser: Chromium) -> list[dict]:
    """Messages from the console, including violations of the content policy."""
    logged = [entry["entry"] for entry in browser.named("Log.entryAdded")]
    return logged + browser.named("Runtime.consoleAPICalled") + browser.named("Runtime.exceptionThrown")


def requests(browser: Chromium) -> list[str]:
    """Addresses that the page requested, except for itself and its embedded pictures."""
    urls = [event["request"]["url"] for event in browser.named("Network.requestWillBeSent")]
    return [url for url in urls if not url.startswith("data:") and not url.endswith("/report.html")]


def test_the_page_makes_no_request_and_logs_no_error(shown):
    shown.run("document.querySelector('#b').selectedIndex = 5, new Promise((done) => setTimeout(done, 300))")
    assert requests(shown) == []
    assert complaints(shown) == []


def test_a_request_is_reported_as_a_violation_of_the_content_policy(shown):
    """Make sure that the test above would notice a request."""
    shown.run("new Image().src = 'http://127.0.0.1:9/x.png'")
    assert complaints(shown) != []


FIRST = "[...document.querySelectorAll('.results tbody .row th')].map((head) => head.textContent.trim())"


def test_a_click_on_a_header_sorts_the_best_first_and_a_second_click_reverses_the_order(shown):
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


def test_the_slider_moves_the_edge_of_the_left_image(shown):
    assert "50%" in shown.run(CLIP)
    shown.run(
        "const s = document.querySelector('#slider'); s.value = 20; s.dispatchEvent(new Event('input'))"
    )
    assert "20%" in shown.run(CLIP)


def test_the_handle_can_be_dragged_with_the_mouse(shown):
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


# The zoom of every pane and the pixel at its centre.
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


def test_keys_choose_the_image_and_the_method_and_switch_flicker_and_fit(shown):
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


def test_the_error_map_is_dark_without_a_difference_and_bright_with_a_large_difference(shown):
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


def test_the_address_stores_the_view(shown, tmp_path):
    shown.press("ArrowRight")
    shown.press("4", "Digit4")
    shown.run("document.querySelector('#in').click(), new Promise((done) => setTimeout(done, 400))")
    address, level = shown.run("[location.href, document.querySelector('#level').textContent]")
    shown.open("about:blank")
    shown.open(address)
    assert shown.run("[image.value, b.value, level.textContent]") == ["Set5/two@4", "second", level]


TIP = "document.querySelector('#tip')"


def test_pointing_at_or_focusing_a_chart_shows_the_worst_images(browser, tmp_path):
    rows = (row("a", 1, 30, 0.9, images=gains(0.5, -0.25)), row("<b>", 1, 30, 0.9))
    (tmp_path / "report.html").write_text(page.render(Table("t", HEAD, COLUMNS, rows), [], root=tmp_path))
    browser.open((tmp_path / "report.html").as_uri())
    chart = "document.querySelector('.chart')"
    x, y = browser.run(f"(({{left, top}}) => [left + 5, top + 5])({chart}.getBoundingClientRect())")
    ways = (
        (lambda: browser.mouse("Moved", x, y), lambda: browser.mouse("Moved", 1, 1)),
        (lambda: browser.run(f"{chart}.focus()"), lambda: browser.run("document.activeElement.blur()")),
    )
    assert browser.run(f"{TIP}.offsetHeight") == 0
    for enter, leave in ways:
        enter()
        assert browser.run(f"{TIP}.offsetHeight") > 0
        shown = browser.run(f"[...{TIP}.querySelectorAll('tr')].map((row) => row.textContent)")
        assert shown == ["img_131.00−0.25", "img_030.00+0.50"]
        leave()
        assert browser.run(f"{TIP}.offsetHeight") == 0
    assert complaints(browser) == []


def test_pointing_at_a_run_in_the_legend_fades_the_other_curves(shown):
    faint = "[...document.querySelectorAll('.panels .faint')].map((line) => line.dataset.run)"
    shown.run("document.querySelectorAll('.lines li')[1].focus()")
    assert set(shown.run(faint)) == {"0", "2"}  # a line that all runs share does not fade
    shown.run("document.activeElement.blur()")
    assert shown.run(faint) == []


CROP = (
    "new Promise((done) => setTimeout(done, 400))"
    ".then(() => document.querySelector('#tag-b .crop').textContent)"
)


def luma(image: np.ndarray) -> np.ndarray:
    """Luma by BT.601, from 16 to 235."""
    return 16 + image.astype(float) @ (65.481, 128.553, 24.966) / 255


def expected(own: np.ndarray, hr: np.ndarray) -> str:
    psnr = 10 * np.log10(255**2 / ((own - hr) ** 2).mean())
    ssim = references.ssim(own, hr, data_range=255)
    return f"crop {psnr:.2f} dB / {ssim:.4f}"


def test_psnr_and_ssim_of_the_visible_crop_are_computed_from_its_pixels(shown, runs):
    picture = saved_images.find(runs)[0]
    sr, hr = saved_images.load(picture.results[1].file), saved_images.load(picture.hr)
    shown.press("3", "Digit3")
    shown.run("document.querySelector('#fit').click()")
    assert shown.run(CROP) == expected(luma(sr), luma(hr))
    for _ in range(30):
        shown.run("document.querySelector('#in').click()")
    shown.run("document.querySelector('#pane').scrollIntoView({behavior: 'instant'})")
    x, y, zoom, wide, high = shown.run(
        "new Promise((done) => setTimeout(done, 300)).then(() => { const v = new URLSearchParams("
        "location.hash.slice(1)); return [+v.get('x'), +v.get('y'), +v.get('z'), pane.clientWidth,"
        " pane.clientHeight]; })"
    )
    left, right = (int(np.floor(x + side * wide / zoom / 2 + 0.5)) for side in (-1, 1))
    top, bottom = (int(np.floor(y + side * high / zoom / 2 + 0.5)) for side in (-1, 1))
    part = np.s_[max(0, top) : bottom, max(0, left) : right]
    assert hr[part].shape[1] < 80
    assert shown.run(CROP) == expected(luma(sr)[part], luma(hr)[part])


def test_the_output_of_a_luma_network_is_used_as_luma_without_conversion(browser, tmp_path):
    run = run_folder(tmp_path / "runs", "grey", images=("one",), plots=False)
    (picture,) = saved_images.find([run])
    hr = luma(saved_images.load(picture.hr))
    own = np.clip(np.round(hr) + 9, 0, 255).astype(np.uint8)
    Image.fromarray(np.stack([own] * 3, axis=2)).save(picture.results[1].file)
    (tmp_path / "report.html").write_text(page.render(table("grey"), [run], root=tmp_path))
    browser.open((tmp_path / "report.html").as_uri())
    browser.press("3", "Digit3")
    assert browser.run(CROP) == expected(own.astype(float), hr)


def test_the_copy_button_puts_the_command_on_the_clipboard(shown):
    shown.send("Browser.grantPermissions", permissions=["clipboardReadWrite", "clipboardSanitizedWrite"])
    command = "document.querySelectorAll('#commands .command')[1]"
    wanted = shown.run(f"{command}.querySelector('code').textContent")
    shown.run(f"{command}.scrollIntoView({{behavior: 'instant', block: 'center'}})")
    x, y = shown.run(
        f"(({{left, top, width, height}}) => [left + width / 2, top + height / 2])"
        f"({command}.querySelector('button').getBoundingClientRect())"
    )
    shown.mouse("Pressed", x, y)
    shown.mouse("Released", x, y)
    shown.run("new Promise((done) => setTimeout(done, 100))")
    assert shown.run(f"{command}.querySelector('button').textContent") == "Copied"
    assert shown.run("navigator.clipboard.readText()") == wanted


def test_a_two_finger_pinch_zooms_all_panes(shown):
    shown.send("Emulation.setTouchEmulationEnabled", enabled=True, maxTouchPoints=2)
    shown.run("document.querySelector('#fit').click()")
    shown.run(SCROLL)
    before = shown.run(PLACES)[0][0]
    x, y = shown.run(
        "(({left, top, width, height}) => [left + width / 4, top + height / 2])"
        "(document.querySelector('#pane').getBoundingClientRect())"
    )

    def touch(kind: str, *spread: float) -> None:
        points = [{"x": x + sign * by, "y": y, "id": n} for by in spread for n, sign in enumerate((-1, 1))]
        shown.send("Input.dispatchTouchEvent", type=kind, touchPoints=points)

    touch("touchStart", 20)
    for spread in range(22, 60, 2):
        touch("touchMove", spread)
    wide = shown.run(PLACES)
    touch("touchMove", 8)
    touch("touchMove", 4)
    narrow = shown.run(PLACES)[0][0]
    touch("touchEnd")
    shown.send("Emulation.setTouchEmulationEnabled", enabled=False)
    assert {zoom for zoom, _, _ in wide} == {wide[0][0]}
    assert wide[0][0] >= before + 3
    assert narrow < wide[0][0]


def test_hostile_names_are_shown_as_text(browser, tmp_path):
    runs = [run_folder(tmp_path / "runs", name, images=HOSTILE[:2], set_name=HOSTILE[3]) for name in HOSTILE]
    head = (*HEAD, f"note: {HOSTILE[1]}", f"warning: {HOSTILE[3]}")
    hostile = Table(HOSTILE[0], head, COLUMNS, table(*HOSTILE).rows)
    (tmp_path / "report.html").write_text(page.render(hostile, runs, root=tmp_path))
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


def test_a_method_whose_image_is_stored_with_another_method_can_be_shown(browser, tmp_path):
    runs = [run_folder(tmp_path / "runs", name, images=("one",), plots=False) for name in ("a", "b")]
    first, second = saved_images.find(runs)[0].results[1:]
    second.file.write_bytes(first.file.read_bytes())
    (tmp_path / "report.html").write_text(page.render(table("a", "b"), runs, root=tmp_path))
    browser.open((tmp_path / "report.html").as_uri())
    left = "document.querySelector('#left').src"
    sources = []
    for name in ("a", "b", "bicubic"):
        browser.run(f"a.value = '{name}'; a.dispatchEvent(new Event('change'))")
        sources.append(browser.run(left))
    assert sources[0] == sources[1] != sources[2]
    assert complaints(browser) == []


def test_the_page_shows_its_pictures_without_javascript(shown, tmp_path):
    shown.send("Emulation.setScriptExecutionDisabled", value=True)
    try:
        shown.open((tmp_path / "report.html").as_uri())
        assert shown.run("document.querySelector('#gallery').offsetHeight") > 200
        assert shown.run("document.querySelector('#viewer').offsetHeight") == 0
    finally:
        shown.send("Emulation.setScriptExecutionDisabled", value=False)


def analysis(folder: Path, says: str, made_by: str = "task=analyze kind=residual") -> None:
    """A picture as ``task=analyze`` writes it."""
    figure = drawing.residuals({"a": [("1", 0.5)], "b": [("1", 0.25)]}, title="x")
    folder.mkdir(parents=True, exist_ok=True)
    content = drawing.written(figure, made_by=made_by, says=says)["png"]
    (folder / f"{len(list(folder.iterdir()))}.png").write_bytes(content)


def test_the_pictures_of_an_analysis_below_the_folder_are_shown(tmp_path):
    run = run_folder(tmp_path, "first")
    before = page.render(table("first"), [run], root=tmp_path)
    assert 'id="analyses"' not in before
    analysis(tmp_path / "analyze", f"residuals of a (zoo/a), b {HOSTILE[0]}")
    analysis(tmp_path / "analyze", "costs", made_by="task=complexity")
    (tmp_path / "analyze" / "broken.png").write_bytes(b"\x89PNG")
    text = page.render(table("first"), [run], root=tmp_path)
    assert text.count('class="analysis"') == 1
    assert html.escape(HOSTILE[0]) in text
    assert HOSTILE[0] not in text
    assert "analyze/0.png" in text
    (source,) = re.findall(r'<figure class="analysis">\s*<img src="data:image/webp;base64,([^"]+)"', text)
    with Image.open(io.BytesIO(base64.b64decode(source))) as shown:
        assert shown.size == (1400, 600)


def test_a_page_shows_a_dozen_pictures_and_says_how_many_more_there_are(tmp_path):
    analysis(tmp_path / "analyze", "a picture")
    for number in range(1, 14):
        shutil.copy(tmp_path / "analyze" / "0.png", tmp_path / "analyze" / f"{number}.png")
    text = page.render(table("first"), [run_folder(tmp_path, "first")], root=tmp_path)
    assert text.count('class="analysis"') == 12
    assert "2 more are in the folder" in text
