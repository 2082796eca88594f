"""Published weights by name: what is known about them, and downloads that fail in many ways."""

import dataclasses
import hashlib
import re
import shutil
from concurrent.futures import ThreadPoolExecutor

import pytest

import sr_lab
from sr_lab.checkpoints.catalogue import Entry
from sr_lab.checkpoints.fetching import MIRROR, provide
from sr_lab.config.identity import identity
from sr_lab.config.networks import model_options
from sr_lab.errors import CheckpointError
from sr_lab.ops.complexity import num_params
from sr_lab.protocol import PROTOCOLS
from sr_lab.tasks import zoo
from sr_lab.zoo.published import Published, named, published
from tests.composing import compose
from tests.loopback import serving
from tests.papers.meta import unfilled

CONTENT = b"weights" * 1000


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SR_LAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv(MIRROR, str(tmp_path / "nothing"))  # no test reaches the authors' addresses
    return tmp_path / "cache"


@pytest.fixture
def mirror(tmp_path, monkeypatch, weights_dir):
    """A folder with the published files that the reference data has, in the layout of a mirror."""
    folder = tmp_path / "mirror"
    by_digest = {
        hashlib.sha256(file.read_bytes()).hexdigest(): file
        for file in weights_dir.rglob("*.*")
        if file.suffix != ".md"
    }
    for entry in published().values():
        if entry.sha256 in by_digest:
            (folder / entry.place).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(by_digest[entry.sha256], folder / entry.place)
    monkeypatch.setenv(MIRROR, str(folder))
    return folder


@pytest.fixture
def server(monkeypatch):
    with serving() as running:
        running.files[f"/{ENTRY.place}"] = CONTENT
        monkeypatch.setenv(MIRROR, running.url)
        monkeypatch.setattr("sr_lab.datasets.download.time.sleep", lambda _: None)
        yield running


ENTRY = dataclasses.replace(
    published()["rlfn_x4"], size=len(CONTENT), sha256=hashlib.sha256(CONTENT).hexdigest()
)


def test_each_entry_names_a_network_a_protocol_and_a_pinned_file():
    for name, entry in published().items():
        assert name == f"{entry.model}_x{entry.scale}"
        assert entry.model in model_options()
        assert entry.protocol in PROTOCOLS
        assert re.fullmatch(r"[0-9a-f]{40} [0-9a-f]{64}", f"{entry.commit} {entry.sha256}")
        assert entry.file().stem == name
        with unfilled():
            assert num_params(Entry(entry.model, entry.scale).build()) == entry.num_params, name


@pytest.mark.parametrize("name", ["imdn_x3", "carn_m_x2", "vdsr_x4", "pan_x4", "bsrn_x2"])
def test_a_name_opens_the_network_at_its_scale(mirror, name):
    notes = []
    network = sr_lab.load(f"zoo/{name}", note=notes.append)
    entry = published()[name]
    assert (network.scale, num_params(network)) == (entry.scale, entry.num_params)
    assert entry.repository in notes[0] or str(mirror) in notes[0]
    assert (entry.licence if entry.has_licence else "no licence") in notes[0]
    notes.clear()
    sr_lab.load(f"zoo/{name}", note=notes.append)
    assert not any("fetching" in note for note in notes)


def test_an_existing_file_of_that_name_is_opened_instead(mirror, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "zoo").mkdir()
    shutil.copy(mirror / published()["imdn_x2"].place, tmp_path / "zoo" / "bsrn_x2")
    assert type(sr_lab.load("zoo/bsrn_x2")).__name__ == "IMDN"


@pytest.mark.parametrize(
    ("name", "says"), [("rlfn_x3", "zoo/rlfn_x2, zoo/rlfn_x4"), ("rlfnx4", "zoo/rlfn_x4"), ("qq", "task=zoo")]
)
def test_an_unknown_name_is_refused_and_the_nearest_name_is_given(name, says):
    with pytest.raises(CheckpointError, match=re.escape(says)):
        named(f"zoo/{name}")


def test_the_identity_of_an_evaluation_is_known_before_the_download(mirror):
    by_name = compose("task=evaluate", "ckpt=zoo/imdn_x4", "benchmark=set5")
    file = mirror / published()["imdn_x4"].place
    by_path = compose("task=evaluate", f"ckpt='{file}'", "benchmark=set5")
    assert identity(by_name)["ckpt"] == identity(by_path)["ckpt"] == published()["imdn_x4"].sha256


def test_a_download_that_is_cut_off_resumes_where_it_was_cut_off(server):
    server.cuts = [1000, 3000]
    assert provide(ENTRY, "ckpt", lambda _: None).read_bytes() == CONTENT
    assert [start for _, start in server.asked] == [None, "bytes=1000-", "bytes=4000-"]


@pytest.mark.parametrize(
    "wrong", [b"other" * 1400, CONTENT[:-1], CONTENT + b"x", b"<html>sign in</html>", None]
)
def test_a_different_file_from_a_server_is_refused_and_not_kept(server, cache, wrong):
    server.files = {} if wrong is None else {f"/{ENTRY.place}": wrong}
    with pytest.raises(
        CheckpointError, match=rf"ckpt: zoo/rlfn_x4 .*; correct {MIRROR}, or download https://raw"
    ):
        provide(ENTRY, "ckpt", lambda _: None)
    assert [file for file in cache.rglob("*") if file.is_file() and file.suffix != ".lock"] == []


def test_a_damaged_file_in_the_cache_is_fetched_again(server):
    file = provide(ENTRY, "ckpt", lambda _: None)
    file.write_bytes(CONTENT[:-1] + b"?")
    assert provide(ENTRY, "ckpt", lambda _: None).read_bytes() == CONTENT


@pytest.mark.parametrize("content", [None, b"other"])
def test_a_folder_without_the_published_file_is_refused(tmp_path, monkeypatch, content):
    monkeypatch.setenv(MIRROR, str(tmp_path))
    if content is not None:
        (tmp_path / ENTRY.place).parent.mkdir(parents=True)
        (tmp_path / ENTRY.place).write_bytes(content)
    with pytest.raises(
        CheckpointError, match="is missing" if content is None else "is not the published file"
    ):
        provide(ENTRY, "ckpt", lambda _: None)


@pytest.mark.parametrize("address", ["http://example.com", "ftp://127.0.0.1", "file:///etc"])
def test_a_mirror_without_encryption_is_refused(monkeypatch, address):
    monkeypatch.setenv(MIRROR, address)
    with pytest.raises(CheckpointError, match="allowed: a folder, https"):
        provide(ENTRY, "ckpt", lambda _: None)


def _provide(entry: Published) -> bytes:
    return provide(entry, "ckpt", lambda _: None).read_bytes()


def test_requests_at_the_same_time_download_once(server):
    # This uses threads, since a forked process may wait forever for a lock that a thread of this process
    # held. A file lock excludes other threads that open the file just as it excludes other processes.
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(_provide, [ENTRY] * 4)) == [CONTENT] * 4
    assert len(server.asked) == 1


def test_the_task_fetches_what_is_named_and_lists_everything(mirror, capsys, tmp_path):
    zoo.run(compose("task=zoo", "fetch=[imdn_x2,zoo/pan_x4]"), tmp_path, [])
    shown = capsys.readouterr().out
    assert all(name in shown for name in published())
    lines = {line.split()[1]: line for line in shown.splitlines() if line.startswith("│")}
    assert [name for name, line in lines.items() if line.split()[-2] == "yes"] == ["imdn_x2", "pan_x4"]
    assert "38.00 / 0.9605" in lines["imdn_x2"]
    assert "none" in lines["imdn_x2"]
    assert max(map(len, lines.values())) <= 80
    with pytest.raises(CheckpointError, match="task=zoo lists"):
        zoo.run(compose("task=zoo", "fetch=[nothing]"), tmp_path, [])


def test_addresses_are_those_of_the_pinned_commit():
    entry = published()["lbnet_t_x3"]
    assert entry.address == (
        f"https://raw.githubusercontent.com/IVIPLab/LBNet/{entry.commit}/test_model/LBNet-T_X3.pt"
    )
