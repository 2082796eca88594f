"""A malicious or damaged archive never yields anything but images."""

import gzip
import io
import os
import random
import shutil
import stat
import struct
import tarfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from sr_lab.datasets import archives
from sr_lab.datasets.archives import unpack
from sr_lab.errors import DataError

IMAGE = bytes(range(256)) * 8
ANY = r".*\.png"


def zipped(path: Path, *entries: tuple[str | zipfile.ZipInfo, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries:
            archive.writestr(name, content)
    return path


def tarred(path: Path, *entries: tarfile.TarInfo | str, mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:
        for entry in entries:
            info = tarfile.TarInfo(entry) if isinstance(entry, str) else entry
            if info.isreg():
                info.size = len(IMAGE)
            archive.addfile(info, io.BytesIO(IMAGE) if info.isreg() else None)
    return path


def special(name: str, kind: bytes, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


def refusal(archive: Path, tmp_path: Path) -> str:
    """Error message for an archive, after checking that nothing was created outside the target."""
    target = tmp_path / "deep" / "target"
    target.mkdir(parents=True)
    before = {path for path in tmp_path.rglob("*") if target not in path.parents}
    with pytest.raises(DataError) as caught:
        unpack(archive, target, members=ANY)
    assert {path for path in tmp_path.rglob("*") if target not in path.parents} == before
    assert not any(path.is_symlink() for path in target.rglob("*"))
    said = str(caught.value)
    assert "\n" not in said
    return said


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz"])
def test_only_the_wanted_images_are_unpacked_without_their_folders(kind, tmp_path):
    names = ("a/HR/1.png", "a/HR/2.png", "a/LR/3.png", "a/HR/run.py", "a/HR/.4.png", "__MACOSX/a/HR/5.png")
    path = tmp_path / f"a.{kind}"
    if kind == "zip":
        zipped(path, *((name, IMAGE) for name in names))
    else:
        tarred(path, *(f"./{name}" for name in names), mode="w:gz" if kind == "tar.gz" else "w")
    target = tmp_path / "target"
    target.mkdir()
    assert sorted(unpack(path, target, members=r".*/?HR/.*")) == [target / "1.png", target / "2.png"]
    assert sorted(target.iterdir()) == [target / "1.png", target / "2.png"]
    assert (target / "1.png").read_bytes() == IMAGE


ESCAPES = [
    "../evil.png",
    "a/../../evil.png",
    "/evil.png",
    "a\\..\\evil.png",
    "C:evil.png",
    "a\x00/../evil.png",
]


@pytest.mark.parametrize("name", ESCAPES)
def test_a_zip_entry_that_leads_out_of_the_folder_is_refused(name, tmp_path):
    # zipfile sanitises names when writing, but an attacker does not
    path = zipped(tmp_path / "a.zip", ("x" * len(name), IMAGE))
    path.write_bytes(path.read_bytes().replace(b"x" * len(name), name.encode()))
    assert "leads out of the folder" in refusal(path, tmp_path)


@pytest.mark.parametrize("name", [name for name in ESCAPES if "\x00" not in name])  # NUL ends a tar name
def test_a_tar_entry_that_leads_out_of_the_folder_is_refused(name, tmp_path):
    assert "leads out of the folder" in refusal(tarred(tmp_path / "a.tar", name), tmp_path)


@pytest.mark.parametrize(
    "entry",
    [
        special("1.png", tarfile.SYMTYPE, "/etc/passwd"),
        special("HR", tarfile.SYMTYPE, "../.."),
        special("1.png", tarfile.LNKTYPE, "../../etc/passwd"),
        special("1.png", tarfile.CHRTYPE),
        special("1.png", tarfile.BLKTYPE),
        special("1.png", tarfile.FIFOTYPE),
    ],
    ids=["symlink to a file", "symlink to a folder", "hard link", "character device", "block device", "fifo"],
)
@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_a_tar_with_a_link_or_a_device_is_refused(entry, mode, tmp_path):
    path = tarred(tmp_path / "a.tar", entry, "HR/2.png", mode=mode)
    assert "is a link or a device" in refusal(path, tmp_path)


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR])
def test_a_zip_with_a_link_or_a_device_is_refused(kind, tmp_path):
    info = zipfile.ZipInfo("1.png")
    info.create_system, info.external_attr = 3, (kind | 0o777) << 16
    path = zipped(tmp_path / "a.zip", (info, b"../../../etc/passwd"))
    assert "is a link or a device" in refusal(path, tmp_path)


def test_two_images_with_the_same_name_are_refused(tmp_path):
    path = zipped(tmp_path / "a.zip", ("a/1.png", IMAGE), ("b/1.png", IMAGE[::-1]))
    assert "it has 1.png twice" in refusal(path, tmp_path)


def test_a_zip_bomb_is_refused_by_its_compression_ratio(tmp_path):
    path = zipped(tmp_path / "a.zip", ("1.png", os.urandom(30_000)), ("2.png", bytes(10**7)))
    assert "like a decompression bomb" in refusal(path, tmp_path)


def test_a_bomb_among_unwanted_files_is_also_refused(tmp_path):
    """Skipping a member of a tar.gz decompresses it."""
    path = tmp_path / "a.tar.gz"
    info = tarfile.TarInfo("zeros.bin")
    info.size = 100 << 20
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(info.tobuf())
        for _ in range(100):
            file.write(bytes(1 << 20))
    started = time.process_time()
    assert "like a decompression bomb" in refusal(path, tmp_path)
    assert time.process_time() - started < 0.1


def test_overlapping_entries_are_refused_as_a_bomb(tmp_path):
    """In Fifield's bomb, many entries of the directory share one compressed stream."""
    path = zipped(tmp_path / "a.zip", ("000.png", bytes(9_000)))
    content = path.read_bytes()
    start = content.index(b"PK\x01\x02")
    end = content.index(b"PK\x05\x06")
    entry = content[start:end]
    directory = b"".join(entry.replace(b"000.png", f"{number:03d}.png".encode()) for number in range(500))
    tail = struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, 500, 500, len(directory), start, 0)
    path.write_bytes(content[:start] + directory + tail)
    assert "like a decompression bomb" in refusal(path, tmp_path)


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz"])
def test_too_many_entries_are_refused(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "MAX_MEMBERS", 10)
    names = [f"{number}.png" for number in range(11)]
    if kind == "zip":
        path = zipped(tmp_path / "a", *((name, IMAGE) for name in names))
    else:
        path = tarred(tmp_path / "a", *names, mode="w:gz" if kind == "tar.gz" else "w")
    assert "has more than 10 entries" in refusal(path, tmp_path)


def test_a_sparse_file_is_refused(tmp_path):
    """The file is 8 GiB of zeros, which take no space in the archive."""
    info = special("1.png", tarfile.GNUTYPE_SPARSE)
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[483:495] = b"%011o " % 2**33  # the file's real size; there are no data blocks
    header[148:156] = b"%06o\0 " % (sum(header[:148]) + 8 * 32 + sum(header[156:]))
    path = tmp_path / "a.tar"
    path.write_bytes(bytes(header) + bytes(1024))
    assert "like a decompression bomb" in refusal(path, tmp_path)


def test_an_enormous_header_is_refused_before_it_is_read(tmp_path):
    """tarfile reads a whole pax header into memory."""
    info = special("pax", tarfile.XHDTYPE)
    info.size = 1 << 30
    path = tmp_path / "a.tar"
    path.write_bytes(gzip.compress(info.tobuf() + bytes(1024)))
    assert "a header of 1073741824 bytes" in refusal(path, tmp_path)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda content: content[: len(content) // 2], "broken"),
        (lambda content: content[:100] + bytes(50) + content[150:], "broken"),
        (lambda content: b"<html>not found</html>", "broken or not an archive"),
        (lambda content: b"", "broken or not an archive"),
    ],
    ids=["half", "zeros", "a page", "nothing"],
)
@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_a_damaged_archive_is_reported(kind, damage: Callable[[bytes], bytes], said, tmp_path):
    path = tmp_path / f"a.{kind}"
    content = os.urandom(5000)
    if kind == "zip":
        zipped(path, ("1.png", content))
    else:
        info = tarfile.TarInfo("1.png")
        info.size = len(content)
        with tarfile.open(path, "w:gz") as archive:
            archive.addfile(info, io.BytesIO(content))
    path.write_bytes(damage(path.read_bytes()))
    assert said in refusal(path, tmp_path)


def test_a_tar_that_ends_in_the_middle_of_an_image_is_reported(tmp_path):
    path = tarred(tmp_path / "a.tar", "1.png")
    path.write_bytes(path.read_bytes()[:1000])
    assert "a.tar is broken or not an archive: unexpected end of data" in refusal(path, tmp_path)


def test_an_encrypted_zip_is_reported(tmp_path):
    path = zipped(tmp_path / "a.zip", ("1.png", IMAGE))
    content = bytearray(path.read_bytes())
    content[6] |= 1  # the encryption flag of the entry, then that of the directory
    content[content.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)
    assert "encrypted" in refusal(path, tmp_path)


def test_an_archive_without_wanted_images_is_reported(tmp_path):
    path = zipped(tmp_path / "a.zip", ("readme.txt", IMAGE))
    assert "holds none of the wanted images" in refusal(path, tmp_path)


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz"])
def test_a_randomly_corrupted_archive_is_unpacked_or_reported_in_one_line(kind, tmp_path):
    """The changes are drawn from a seeded generator; zipfile and tarfile raise a dozen types of error."""
    rng = random.Random(0)
    path, target = tmp_path / f"a.{kind}", tmp_path / "deep" / "target"
    if kind == "zip":
        zipped(path, *((f"ü/{number}.png", IMAGE) for number in range(3)))
    else:
        tarred(path, *(f"{'ü' * 60}/{number}.png" for number in range(3)))
    seed, errors = path.read_bytes(), list[str]()
    for _ in range(80):
        content = bytearray(seed)
        for _ in range(rng.choice((1, 2, 8))):
            place = rng.randrange(len(content))
            content[place : place + rng.randrange(3)] = rng.choice(
                (b"", b"\0", b"\xff", b"\xff" * 4, b"7777", b"-999", content[place - 50 : place])
            )
        path.write_bytes(gzip.compress(content) if kind == "tar.gz" else content)
        target.mkdir(parents=True)
        try:
            unpack(path, target, members=ANY)
        except DataError as error:
            errors.append(str(error))
        shutil.rmtree(target)
        assert set(tmp_path.iterdir()) == {path, target.parent}
    assert 0 < len(errors) < 80
    assert "\n" not in "".join(errors)
