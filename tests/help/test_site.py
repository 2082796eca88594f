"""The site that ``make docs`` builds, and the tables of costs in it."""

import functools
import http.server
import json
import re
import shutil
import subprocess
import sys
import threading
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag

import pytest
import yaml

from sr_lab.files import conf_dir
from sr_lab.help import costs, layout, option, site
from sr_lab.reporting.published import experiments_dir
from tests import chromium

ZENSICAL = shutil.which("zensical", path=str(Path(sys.executable).parent)) or shutil.which("zensical")


def test_a_page_is_the_same_text_as_markdown():
    with layout.as_markdown():
        lines = [
            *layout.wrapped("model=x_y"),
            "=========",
            *layout.wrapped("One *paper* <b>, it's [1]", indent=2),
            "",
            "Commands",
            *layout.pairs([("python -m sr_lab model=x", "trains it")], column=6),
            "",
            "Settings",
            *layout.pairs([("a_b=1", "first | second")]),
            *layout.columns([["scale", "PSNR"], ["x2", "38.00"]]),
        ]
    assert layout.markdown(lines) == (
        "# model=x&#95;y\n\nOne &#42;paper&#42; &#60;b&#62;, it's &#91;1&#93;\n\n"
        "## Commands\n\nTrains it:\n\n```sh\npython -m sr_lab model=x\n```\n\n"
        "## Settings\n\n|  |  |\n| --- | --- |\n"
        "| <code>a&#95;b=1</code> | first &#124; second |\n\n"
        "| scale | PSNR |\n| --- | ---: |\n| x2 | 38.00 |\n"
    )
    assert layout.pairs([("a", "b")]) == ["  a  b"]  # outside of that context, the text is as on a terminal


def test_links_between_readmes_lead_to_their_pages_and_others_become_text():
    text = site._document(experiments_dir() / "osffnet" / "README.md")
    assert "[Running experiments](../../guide.md)" in text
    guide = site._document(experiments_dir() / "README.md")
    assert "[imfm](tables/imfm/index.md)" in guide
    assert "[benchmarks](speed.md)" in guide


def test_every_readme_has_a_page_and_every_table_of_costs_is_counted():
    readmes = list(experiments_dir().rglob("README.md"))
    papers = {f"tables/{paper}/index.md" for paper in site._papers()}
    assert {site._page_of(file) for file in readmes} <= papers | {"guide.md", "own_code.md", "speed.md"}
    assert {file.parent.name for file in readmes if costs.BEGIN in file.read_text()} == set(costs.papers())


def test_the_page_of_a_network_shows_what_was_trained_here():
    assert "IMDN cos" in site._trained("imdn")
    assert "Nothing has been trained" in site._trained("bicubic")


@pytest.mark.parametrize("name", ["imfm/train", "two_strategies/train"])
def test_the_cost_in_a_readme_equals_a_new_count(name):
    readme = (experiments_dir() / name.partition("/")[0] / "README.md").read_text()
    assert costs._line(name, list(costs._jobs(name))) in readme.splitlines()


@pytest.mark.slow
@pytest.mark.parametrize("paper", costs.papers())
def test_every_cost_in_a_readme_equals_a_new_count(paper):
    text = (experiments_dir() / paper / "README.md").read_text()
    assert costs.section(paper) == text.partition(costs.BEGIN)[2].partition(costs.END)[0].strip()


class _Links(HTMLParser):
    """The addresses that a page links to, and the names of its own anchors."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.names = {""}
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for key, value in attrs:
            if key in ("href", "src") and value:
                self.addresses.append(value)
            elif key in ("id", "name") and value:
                self.names.add(value)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole site, built as ``make docs`` does."""
    if ZENSICAL is None:
        pytest.skip("needs zensical, of the extra `docs`")
    folder = tmp_path_factory.mktemp("docs")
    site.build(folder)
    command = [ZENSICAL, "build", "--strict", "--config-file", str(folder / "mkdocs.yml")]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "warning" not in (done.stdout + done.stderr).lower()
    return folder / "site"


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_site_has_a_page_for_everything_without_a_dead_link(built):
    groups = option.groups([conf_dir()])
    assert all((built / "networks" / f"{name}.html").is_file() for name in groups["model"])
    assert all((built / "tasks" / f"{name}.html").is_file() for name in groups["task"])
    assert all((built / "tables" / name / "index.html").is_file() for name in costs.papers())
    pages = {path: _Links(path.read_text()) for path in built.rglob("*.html")}
    dead = []
    for path, page in pages.items():
        for address in page.addresses:
            if re.match(r"[a-z]+:", address) or path.name == "404.html":
                continue
            file, anchor = urldefrag(unquote(address))
            target = (path.parent / file).resolve() if file else path
            target = target / "index.html" if target.is_dir() else target
            if not target.is_file() or (target in pages and anchor not in pages[target].names):
                dead.append(f"{path.relative_to(built)}: {address}")
    assert dead == []
    navigation = yaml.safe_load((built.parent / "mkdocs.yml").read_text())["nav"]
    listed = set(re.findall(r"[\w/.-]+\.md", json.dumps(navigation)))
    assert listed == {str(path.relative_to(built.parent / "pages")) for path in built.parent.rglob("*.md")}
    assert "table2" in (built / "search.json").read_text()


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.skipif(chromium.path() is None, reason="needs chromium")
def test_pages_fit_a_screen_and_a_phone_and_are_found_by_search(built, tmp_path):
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(built))
    handler.log_message = lambda *_: None
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    browser = chromium.Chromium(tmp_path)
    try:
        for page in ("index", "networks/index", "networks/imfm", "tables/osffnet/table2_osff", "tasks/plan"):
            for width in (1400, 390):
                browser.send(
                    "Emulation.setDeviceMetricsOverride",
                    width=width,
                    height=900,
                    deviceScaleFactor=1,
                    mobile=width < 500,
                )
                browser.open(f"http://127.0.0.1:{server.server_port}/{page}.html")
                wide = browser.run(
                    "document.documentElement.scrollWidth - document.documentElement.clientWidth"
                )
                assert wide <= 0, (page, width)
                assert browser.run("[...document.images].every((each) => each.naturalWidth > 0)")
                asked = [each["request"]["url"] for each in browser.named("Network.requestWillBeSent")]
                assert all(url.startswith(("http://127.0.0.1", "data:", "blob:")) for url in asked)
    finally:
        browser.close()
        server.shutdown()
        server.server_close()
