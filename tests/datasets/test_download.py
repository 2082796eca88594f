"""Downloads over a real connection that are cut off, resumed, tampered with, redirected or too long."""

import hashlib
import io
import json
import os
import re
import shutil
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import requests
from filelock import FileLock
from PIL import Image

from sr_lab.datasets import download
from sr_lab.datasets.download import fetch
from sr_lab.datasets.install import Store
from sr_lab.datasets.registry import IMAGE_SETS, Archive, ImageSet, named
from sr_lab.errors import ConfigError, DataError
from sr_lab.files import conf_dir
from tests.loopback import Server, serving

CONTENT = np.random.default_rng(0).bytes(300_000)
SHA256 = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as running:
        yield running


def archive_at(server: Server, content: bytes = CONTENT, digest: str | None = SHA256, **more: int) -> Archive:
    server.files["/a.zip"] = content
    return Archive((f"{server.url}/a.zip",), r".*\.png", digest, **more)


def fetched(archive: Archive, folder: Path, **more: object) -> bytes:
    return fetch(archive, archive.urls[0], folder, pause=0.001, **more).read_bytes()


def failure(archive: Archive, folder: Path) -> str:
    with pytest.raises(DataError) as caught:
        fetched(archive, folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_file_is_fetched_once(server, tmp_path):
    archive = archive_at(server)
    assert fetched(archive, tmp_path) == CONTENT
    assert fetched(archive, tmp_path) == CONTENT
    assert len(server.asked) == 1
    assert len(list(tmp_path.iterdir())) == 1


def test_a_download_resumes_where_its_connection_was_cut(server, tmp_path):
    archive = archive_at(server)
    server.cuts = [100_000, 50_000, 0, 10]
    reported: list[int] = []
    assert fetched(archive, tmp_path, report=lambda done, total: reported.append(done)) == CONTENT
    ranges = [wanted for _, wanted in server.asked]
    assert ranges == [None, "bytes=100000-", "bytes=150000-", "bytes=150000-", "bytes=150010-"]
    assert reported == sorted(reported)
    assert reported[-1] == len(CONTENT)


@pytest.mark.parametrize("digest", [SHA256, None])
def test_a_killed_download_resumes_in_the_next_process(digest, server, tmp_path):
    archive = archive_at(server, digest=digest)
    server.cuts = [100_000] + [0] * 4
    assert "does not answer" in failure(archive, tmp_path)
    server.asked.clear()
    assert fetched(archive, tmp_path) == CONTENT
    assert server.asked == [("/a.zip", "bytes=100000-")]


def test_a_file_that_has_changed_in_the_meantime_is_fetched_from_the_start(server, tmp_path):
    archive = archive_at(server, CONTENT[::-1], digest=None)
    server.cuts = [100_000] + [0] * 4
    failure(archive, tmp_path)
    server.files["/a.zip"], server.etag = CONTENT, '"2"'
    assert fetched(archive, tmp_path) == CONTENT


def test_without_a_digest_and_an_etag_a_download_starts_again(server, tmp_path):
    archive = archive_at(server, CONTENT[::-1], digest=None)
    server.etag = None
    server.cuts = [100_000] + [0] * 4
    failure(archive, tmp_path)
    server.files["/a.zip"] = CONTENT
    assert fetched(archive, tmp_path) == CONTENT


def test_a_download_from_a_server_without_range_support_starts_again(server, tmp_path):
    server.ranges = False
    server.cuts = [100_000]
    assert fetched(archive_at(server), tmp_path) == CONTENT


def test_a_request_to_a_busy_server_is_repeated(server, tmp_path):
    server.refused["/a.zip"] = [503, 429]
    assert fetched(archive_at(server), tmp_path) == CONTENT


def test_a_partial_file_of_full_length_is_not_fetched_again(server, tmp_path):
    """A process that is killed while it computes the digest leaves such a file."""
    archive = archive_at(server)
    server.cuts = [len(CONTENT) - 1] + [0] * 4
    failure(archive, tmp_path)
    (part,) = tmp_path.glob("*.part")
    part.write_bytes(CONTENT)
    server.asked.clear()
    assert fetched(archive, tmp_path) == CONTENT
    assert server.asked == [("/a.zip", f"bytes={len(CONTENT)}-")]


@pytest.mark.parametrize("position", [0, len(CONTENT) // 2, len(CONTENT) - 1])
def test_one_changed_byte_is_found_and_no_file_is_left(position, server, tmp_path):
    tampered = bytearray(CONTENT)
    tampered[position] ^= 1
    said = failure(archive_at(server, bytes(tampered)), tmp_path)
    assert "/a.zip sent a file that is not the published file" in said
    assert list(tmp_path.iterdir()) == []


def test_a_partial_file_that_was_tampered_with_is_found(server, tmp_path):
    archive = archive_at(server)
    server.cuts = [100_000] + [0] * 4
    failure(archive, tmp_path)
    (part,) = tmp_path.glob("*.part")
    part.write_bytes(b"x" + part.read_bytes()[1:])
    assert "not the published file" in failure(archive, tmp_path)
    assert fetched(archive, tmp_path) == CONTENT


def test_an_md5_digest_is_compared_too(server, tmp_path):
    md5 = hashlib.md5(CONTENT, usedforsecurity=False).hexdigest()
    assert fetched(archive_at(server, digest=f"md5:{md5}"), tmp_path) == CONTENT
    assert "not the published file" in failure(
        archive_at(server, digest=f"md5:{md5[::-1]}"), tmp_path / "other"
    )


def test_a_huge_announced_length_is_refused_before_a_byte_is_stored(server, tmp_path):
    archive = archive_at(server)
    server.announced["/a.zip"] = 10**15
    assert "announces 1,000,000,000,000,000 bytes; allowed:" in failure(archive, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_length_other_than_the_published_one_is_refused(server, tmp_path):
    said = failure(archive_at(server, size=len(CONTENT) + 1), tmp_path)
    assert "announces 300,000 bytes, but the published file has 300,001" in said


def test_a_length_beyond_the_free_space_is_reported(server, tmp_path):
    free = shutil.disk_usage(tmp_path).free
    archive = archive_at(server, size=4 * free)
    server.announced["/a.zip"] = 4 * free
    said = failure(archive, tmp_path)
    assert f"and its images need {8 * free:,} bytes, but only " in said
    assert f" are free in {tmp_path}; free space there" in said


def test_an_endless_response_is_cut_off(server, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "MAX_BYTES", 200_000)
    server.announced["/a.zip"] = None
    assert "sends more than 200,000 bytes" in failure(archive_at(server, digest=None), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_more_bytes_than_the_published_file_has_are_not_accepted(server, tmp_path):
    archive = archive_at(server, size=200_000)
    server.announced["/a.zip"] = None
    assert "sends more than 200,000 bytes" in failure(archive, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_more_bytes_than_announced_are_not_accepted(server, tmp_path):
    archive = archive_at(server)
    server.announced["/a.zip"] = 1000
    assert "not the published file" in failure(archive, tmp_path)


@pytest.mark.parametrize("status", [403, 404, 410])
def test_a_missing_file_is_not_requested_again(status, server, tmp_path):
    archive = archive_at(server)
    server.refused["/a.zip"] = [status]
    assert f"answers {status}" in failure(archive, tmp_path)
    assert len(server.asked) == 1


def test_an_address_that_does_not_answer_is_reported(tmp_path):
    said = failure(Archive(("http://127.0.0.1:9/a.zip",), ""), tmp_path)
    assert said.endswith("does not answer (ConnectionError)")  # and does not claim that a part was kept


def test_a_partial_download_is_kept_and_reported(server, tmp_path):
    archive = archive_at(server)
    server.cuts = [100_000] + [0] * 4
    assert failure(archive, tmp_path).endswith("; the received bytes are kept")
    (part,) = tmp_path.glob("*.part")
    assert part.stat().st_size == 100_000


def test_a_redirect_is_followed(server, tmp_path):
    archive = archive_at(server)
    server.files["/b.zip"] = server.files.pop("/a.zip")
    server.redirects["/a.zip"] = "/b.zip?token=secret"
    server.files["/b.zip?token=secret"] = CONTENT
    assert fetched(archive, tmp_path) == CONTENT


@pytest.mark.parametrize(
    "location",
    [
        "file:///etc/passwd",
        "ftp://127.0.0.1/a.zip",
        "gopher://127.0.0.1:70/a.zip",
        "data:,x",
        "http://192.0.2.1/a.zip",
        "http://2130706433/a.zip",  # 127.0.0.1 as a number
        "http://0.0.0.0/a.zip",
        "http://localhost:1/a.zip",  # another port of this machine
        "https://",
    ],
)
def test_a_redirect_to_another_host_or_protocol_is_refused(location, server, tmp_path):
    archive = archive_at(server)
    server.redirects["/a.zip"] = location
    said = failure(archive, tmp_path)
    assert "redirects to an address that is not allowed" in said
    assert "secret" not in said
    assert list(tmp_path.iterdir()) == []


def test_a_loop_of_redirects_ends(server, tmp_path):
    archive = archive_at(server)
    server.redirects |= {"/a.zip": "/b", "/b": "/a.zip"}
    assert "or redirects too often" in failure(archive, tmp_path)
    assert len(server.asked) == 6


@pytest.mark.parametrize(
    "url",
    ["http://example.org/a", "http://127.0.0.1.example.org/a", "http://127.0.0.1@example.org/a", "file:///a",
     "ftp://a/b", "a.zip"],
)  # fmt: skip
def test_only_https_addresses_and_the_local_machine_are_allowed(url, tmp_path):
    assert "; allowed: https, http on this machine" in failure(Archive((url,), ""), tmp_path)


def test_a_public_server_cannot_redirect_to_this_machine():
    """The test server runs on this machine, so its own redirects to this machine are allowed."""
    session = download._session("https://example.org/a.zip")
    with pytest.raises(requests.exceptions.InvalidSchema):
        session.get_adapter("http://127.0.0.1:8080/admin")


def test_every_address_in_the_registry_is_allowed():
    archives = [archive for known in IMAGE_SETS for archive in known.archives]
    for url in (url for archive in archives for url in archive.urls):
        assert url.startswith("https://")
    for archive in archives:
        kind, _, digest = (archive.digest or "sha256:" + "0" * 64).partition(":")
        assert len(digest) == {"sha256": 64, "md5": 32}[kind]


def test_every_folder_that_a_dataset_reads_is_in_the_registry():
    text = "\n".join((conf_dir() / "dataset" / f"{name}.yaml").read_text() for name in ("df2k", "flickr2k"))
    folders = set(re.findall(r"\$\{paths\.data_dir\}/(\S+)", text))
    assert len(named([f"x/{folder}" for folder in folders], Path("x"))) == len(folders) == 3


# Installing a whole set.


def image(number: int) -> bytes:
    pixels = np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def zip_of(numbers: Iterator[int] | range, prefix: str = "Tiny_HR/") -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for number in numbers:
            archive.writestr(zipfile.ZipInfo(f"{prefix}{number:04d}.png"), image(number))
    return file.getvalue()


TINY = zip_of(range(1, 6))
TINY_SHA = f"sha256:{hashlib.sha256(TINY).hexdigest()}"


def tiny(server: Server, *paths: str, digest: str | None = TINY_SHA) -> ImageSet:
    urls = tuple(f"{server.url}{path}" for path in paths)
    return ImageSet(
        "Tiny", "Tiny/Tiny_HR", 5, (Archive(urls, r"Tiny_HR/\d{4}\.png", digest),), numbers=(1, 4)
    )


def install(data_dir: Path, wanted: ImageSet, **more: object) -> str:
    store = Store(data_dir, pause=0.001, **more)
    with store.locked():
        return store.install(wanted)


def test_a_set_is_unpacked_into_its_folder_and_the_archive_is_removed(server, tmp_path):
    server.files["/a.zip"] = TINY
    said = install(tmp_path, tiny(server, "/a.zip"))
    assert "5 images in" in said
    assert "SHA-256 of the archive as published" in said
    images = sorted((tmp_path / "Tiny" / "Tiny_HR").iterdir())
    assert [path.name for path in images] == [f"{number:04d}.png" for number in range(1, 6)]
    assert images[2].read_bytes() == image(3)
    assert [path.name for path in (tmp_path / ".downloads").iterdir()] == ["lock"]
    assert "is already there" in install(tmp_path, tiny(server, "/a.zip"))
    assert len(server.asked) == 1


def test_the_next_mirror_is_tried_when_a_mirror_is_gone_or_has_a_different_file(server, tmp_path):
    server.files |= {"/differs.zip": TINY[:-1] + b"x", "/good.zip": TINY}
    said: list[str] = []
    install(tmp_path, tiny(server, "/gone.zip", "/differs.zip", "/good.zip"), say=said.append)
    assert "answers 404" in said[0]
    assert "not the published file" in said[1]
    assert len(list((tmp_path / "Tiny" / "Tiny_HR").iterdir())) == 5


def test_the_users_own_mirror_is_tried_first(server, tmp_path):
    server.files["/mine/a.zip"] = TINY
    install(tmp_path, tiny(server, "/a.zip"), mirror=f"{server.url}/mine/")
    assert [path for path, _ in server.asked] == ["/mine/a.zip"]


@pytest.mark.parametrize("mirror", ["ftp://x/", "http://example.org", "/srv/archives", "https://", ""])
def test_a_mirror_with_a_forbidden_address_is_refused_at_the_start(tmp_path, mirror):
    with pytest.raises(ConfigError, match=r"^mirror: got .*; allowed: https://..., http on this machine$"):
        Store(tmp_path, mirror=mirror)


def test_a_folder_with_other_content_must_be_moved_away(server, tmp_path):
    note = tmp_path / "Tiny" / "Tiny_HR" / "note.txt"
    note.parent.mkdir(parents=True)
    note.write_text("mine")
    says = f"{note.parent} exists but is not Tiny: .* has no image; .* move the folder away to download"
    with pytest.raises(DataError, match=says):
        install(tmp_path, tiny(server, "/a.zip"))
    assert note.read_text() == "mine"


def test_if_every_address_fails_no_file_is_left_and_the_reason_is_given(server, tmp_path):
    server.files["/a.zip"] = TINY[:-1] + b"x"
    with pytest.raises(
        DataError, match=r"no address served Tiny \(2 tried; last error: .*not the published file"
    ):
        install(tmp_path, tiny(server, "/gone.zip", "/a.zip"))
    assert not (tmp_path / "Tiny" / "Tiny_HR").exists()


def test_the_first_download_is_trusted_and_this_is_reported(server, tmp_path):
    server.files["/a.zip"] = TINY
    said = install(tmp_path, tiny(server, "/a.zip", digest=None))
    assert "no SHA-256 is published; the SHA-256 of" in said
    (entry,) = json.loads((tmp_path / "downloads.lock.json").read_text()).values()
    assert entry["sha256"] == TINY_SHA.removeprefix("sha256:")


def test_a_download_that_differs_from_the_first_is_refused(server, tmp_path):
    server.files["/a.zip"] = TINY
    wanted = tiny(server, "/a.zip", digest=None)
    install(tmp_path, wanted)
    shutil.rmtree(tmp_path / "Tiny")
    server.files["/a.zip"] = zip_of(range(1, 6), prefix="./Tiny_HR/")
    with pytest.raises(DataError, match=r"has changed since .* remove the entry from"):
        install(tmp_path, wanted)
    assert not (tmp_path / "Tiny" / "Tiny_HR").exists()
    server.files |= {"/a.zip": TINY, "/differs/a.zip": zip_of(range(1, 6), prefix="./Tiny_HR/")}
    with pytest.raises(DataError, match="has changed since"):
        install(tmp_path, tiny(server, "/differs/a.zip", digest=None))  # also from a mirror
    assert "the SHA-256 of" in install(tmp_path, wanted)


@pytest.mark.parametrize(
    ("numbers", "said"),
    [
        (range(1, 5), "1 of 5 images are missing, starting with 0005"),
        (range(1, 7), "it has 6 images instead of 5"),
    ],
)
def test_an_archive_with_the_wrong_images_is_refused(numbers, said, server, tmp_path):
    server.files["/a.zip"] = zip_of(numbers)
    with pytest.raises(DataError, match=said):
        install(tmp_path, tiny(server, "/a.zip", digest=None))
    assert list((tmp_path / "Tiny").iterdir()) == []


def test_a_broken_image_in_an_archive_without_a_digest_is_refused(server, tmp_path):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for number in range(1, 6):
            archive.writestr(f"Tiny_HR/{number:04d}.png", image(number)[: 100 if number == 3 else None])
    server.files["/a.zip"] = file.getvalue()
    with pytest.raises(DataError, match=r"no address served Tiny .*cannot read .*0003\.png"):
        install(tmp_path, tiny(server, "/a.zip", digest=None))
    assert not (tmp_path / "downloads.lock.json").exists()
    assert not list((tmp_path / ".downloads").glob("*a.zip"))


def test_a_tampered_div2k_is_refused(server, tmp_path):
    known = IMAGE_SETS[0]
    (archive,) = known.archives
    server.files["/DIV2K_train_HR.zip"] = zip_of(range(1, 801), prefix="DIV2K_train_HR/")
    mine = archive._replace(urls=(f"{server.url}/DIV2K_train_HR.zip",))
    for wanted, said in (
        (mine, "announces [0-9,]+ bytes, but the published file has 3,530,603,713"),
        (mine._replace(size=None), "not the published file"),
    ):
        with pytest.raises(DataError, match=said):
            install(tmp_path, ImageSet(known.name, known.folder, 800, (wanted,), known.numbers))
    assert not list(tmp_path.rglob("*.png"))


def test_an_existing_folder_with_wrong_images_is_left_alone(server, tmp_path):
    server.files["/a.zip"] = TINY
    folder = tmp_path / "Tiny" / "Tiny_HR"
    folder.mkdir(parents=True)
    (folder / "0001.png").write_bytes(image(1))
    with pytest.raises(DataError, match="is not Tiny: 4 of 5 images are missing, starting with 0002"):
        install(tmp_path, tiny(server, "/a.zip"))
    assert [path.name for path in folder.iterdir()] == ["0001.png"]
    assert server.asked == []


def test_leftovers_of_a_killed_unpacking_are_removed(server, tmp_path):
    server.files["/a.zip"] = TINY
    leftover = tmp_path / "Tiny" / ".Tiny_HR.0123.tmp"
    leftover.mkdir(parents=True)
    (leftover / "0001.png").write_bytes(b"half")
    install(tmp_path, tiny(server, "/a.zip"))
    assert [path.name for path in (tmp_path / "Tiny").iterdir()] == ["Tiny_HR"]


def test_two_processes_do_not_download_to_the_same_folder(server, tmp_path):
    (tmp_path / ".downloads").mkdir()
    with (
        FileLock(tmp_path / ".downloads" / "lock"),
        pytest.raises(DataError, match="another process is downloading to"),
    ):
        install(tmp_path, tiny(server, "/a.zip"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_read_only_folder_is_reported(server, tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(DataError, match="cannot write to"):
        install(tmp_path, tiny(server, "/a.zip"))


def test_manga109_is_not_downloaded_automatically(tmp_path):
    manga = next(known for known in IMAGE_SETS if known.name == "Manga109")
    with pytest.raises(DataError, match="Manga109 cannot be downloaded: its terms forbid"):
        install(tmp_path, manga)


# A benchmark set, whose pixels are checked.


def tar_of(folder: Path, prefix: str) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        for path in sorted(folder.iterdir()):
            archive.add(path, f"{prefix}{path.name}")
    return file.getvalue()


def set5(server: Server) -> ImageSet:
    known = next(one for one in IMAGE_SETS if one.name == "Set5")
    (hugging_face,) = (archive for archive in known.archives if archive.digest is None)
    mine = hugging_face._replace(urls=(f"{server.url}/Set5_HR.tar.gz",))
    return ImageSet(known.name, known.folder, known.count, (mine,))


def test_set5_is_recognised_by_its_pixels_and_its_files_are_renamed(server, tmp_path, data_dir):
    source = tmp_path / "source"
    shutil.copytree(data_dir / "benchmarks" / "Set5" / "HR", source)
    (source / "baby.png").rename(source / "img_001.png")
    server.files["/Set5_HR.tar.gz"] = tar_of(source, "Set5_HR/")
    said = install(tmp_path / "data", set5(server))
    assert "every pixel as published" in said
    images = sorted((tmp_path / "data" / "benchmarks" / "Set5" / "HR").iterdir())
    assert [path.name for path in images] == [
        "baby.png",
        "bird.png",
        "butterfly.png",
        "head.png",
        "woman.png",
    ]
    assert "is already there, with every pixel right" in install(tmp_path / "data", set5(server))


def test_a_set5_with_one_changed_pixel_is_refused(server, tmp_path, data_dir):
    source = tmp_path / "source"
    shutil.copytree(data_dir / "benchmarks" / "Set5" / "HR", source)
    with Image.open(source / "head.png") as opened:
        changed = opened.convert("RGB")
    red, green, blue = changed.getpixel((5, 5))
    changed.putpixel((5, 5), (red ^ 1, green, blue))
    changed.save(source / "head.png")
    server.files["/Set5_HR.tar.gz"] = tar_of(source, "Set5_HR/")
    with pytest.raises(DataError, match=r"head\.png is recompressed: 280x280, the right size"):
        install(tmp_path / "data", set5(server))
    assert not (tmp_path / "data" / "benchmarks" / "Set5" / "HR").exists()
