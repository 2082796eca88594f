"""One file from one address: a cut connection is taken up again, and nothing is believed that a server says.

pooch keeps the files and compares digests; it cannot resume, so `_Transfer` is the downloader that it calls.
"""

import hashlib
import os
import re
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, TypeAlias
from urllib.parse import urlsplit

import pooch
import requests
import urllib3

from sr_lab.datasets.registry import Archive
from sr_lab.errors import DataError

Report: TypeAlias = Callable[[int, int | None], object]  # bytes there, and of how many if that is known

MAX_BYTES = 64 << 30  # of an archive whose size nobody published; the largest, Flickr2K, has 20 GB
_PIECE = 1 << 20
_TIMEOUT = (15, 60)  # seconds to connect, and without a byte
_ATTEMPTS = 4  # in a row that bring not one byte
_BUSY = (429, 500, 502, 503, 504)
_HERE = re.compile(r"http://(localhost|127\.0\.0\.1|\[::1\])(:\d+)?/")  # this machine


class SourceError(DataError):
    """This address is no good; another may be."""


def may_be_asked(url: str) -> bool:
    """Whether an address is one of https, or of this machine."""
    return re.match(r"https://[^/]", url) is not None or _HERE.match(f"{url}/") is not None


def silent(done: int, total: int | None) -> None:
    """Report nothing."""


def fetch(archive: Archive, url: str, folder: Path, *, report: Report = silent, pause: float = 1.0) -> Path:
    """An archive from one of its addresses, its published digest compared.

    Args:
        archive: What is expected.
        url: The address; https, or http on this machine. A redirect may lead to https only.
        folder: Where downloads are kept; one that is there already is taken if its digest is right.
        report: Called with the progress.
        pause: Seconds before the second attempt; it doubles with each that brings nothing.

    Returns:
        The file.

    Raises:
        SourceError: The address does not answer, redirects to where it may not, or sends something else.
        DataError: There is no room on the disk.
    """
    pooch.get_logger().setLevel("WARNING")  # it would tell of every file, beside the progress bar
    # Not the archive's name alone: two addresses of a file without a digest may differ.
    name = f"{hashlib.sha256(url.encode()).hexdigest()[:8]}-{archive.name}"
    transfer = _Transfer(archive, folder / f"{name}.part", report, pause)
    try:
        file = Path(pooch.retrieve(url, archive.digest, fname=name, path=folder, downloader=transfer))
    except DataError:
        raise
    except ValueError as error:  # pooch compared digests
        transfer.forget()
        raise SourceError(f"download: {_shown(url)} is not the published file; it was removed") from error
    transfer.forget()
    return file


@dataclass
class _Transfer:
    """A downloader for pooch that resumes.

    Args:
        archive: What is expected.
        part: What has come so far; beside it, ``.etag`` says of which version of the file.
        report: See `fetch`, as ``pause``.
    """

    archive: Archive
    part: Path
    report: Report
    pause: float

    def __call__(self, url: str, output_file: str, _pooch: object) -> None:
        """Download to ``output_file``, a file of pooch's in the folder of the part."""
        failures = 0
        while True:
            before = self._length()
            try:
                with _session(url) as session:
                    self._attempt(session, url)
                break
            except DataError:
                raise
            except (ValueError, requests.TooManyRedirects):  # of requests: no address that it may ask
                _give_up(url, "is or redirects to a refused address; allowed: https, http on this machine")
            except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
                failures = failures + 1 if self._length() <= before else 0
                if failures == _ATTEMPTS:
                    kept = "; what has come is kept" if self._length() else ""
                    _give_up(url, f"does not answer ({type(error).__name__}){kept}")
                time.sleep(self.pause * 2 ** max(0, failures - 1))
        # The part stays until the digest is right: a kill while it is computed must not cost the download.
        Path(output_file).unlink(missing_ok=True)
        try:
            os.link(self.part, output_file)
        except OSError:  # a file system without links
            self.part.replace(output_file)

    def forget(self) -> None:
        """Remove what has come: it is in its place, or it was wrong."""
        self.part.unlink(missing_ok=True)
        self._etag.unlink(missing_ok=True)

    @property
    def _etag(self) -> Path:
        return self.part.with_suffix(".etag")

    def _length(self) -> int:
        return self.part.stat().st_size if self.part.exists() else 0

    def _attempt(self, session: requests.Session, url: str) -> None:
        """One connection: the rest of the file, or all of it where the server cannot or it has changed."""
        if self.archive.digest is None and not self._etag.exists():
            self.part.unlink(missing_ok=True)  # nothing would tell two halves of different files
        have = self._length()
        headers = {"Accept-Encoding": "identity", "User-Agent": "sr_lab"}
        if have:
            headers["Range"] = f"bytes={have}-"
            with suppress(FileNotFoundError):
                headers["If-Range"] = self._etag.read_text()
        with session.get(url, headers=headers, stream=True, timeout=_TIMEOUT) as answer:
            if answer.status_code == 416 and answer.headers.get("Content-Range") == f"bytes */{have}":
                return  # it was whole, and only the digest was still to come
            if answer.status_code in _BUSY:
                answer.raise_for_status()
            if answer.status_code == 206:
                found = re.fullmatch(r"bytes (\d+)-\d+/(\d{1,18})", answer.headers.get("Content-Range", ""))
                if found is None or int(found[1]) != have:
                    self._refuse(url, "sends a part that was not asked for")
                total: int | None = int(found[2])
            elif answer.status_code == 200:
                self.forget()
                have = 0
                length = answer.headers.get("Content-Length", "")
                total = int(length) if re.fullmatch(r"\d{1,18}", length) else None
                if (etag := answer.headers.get("ETag", "")).startswith('"'):  # a weak one means: alike
                    self._etag.write_text(etag)
            else:
                if answer.status_code == 416:  # it has become shorter
                    self.forget()
                _give_up(url, f"answers {answer.status_code} {answer.reason}")
            self._check_length(url, total, have)
            most = total or self.archive.size or MAX_BYTES
            self.report(have, total)
            with self.part.open("ab") as file:
                for piece in answer.raw.stream(_PIECE, decode_content=False):
                    have += len(piece)
                    if have > most:
                        self._refuse(url, f"sends more than {most:,} bytes")
                    file.write(piece)
                    self.report(have, total)

    def _check_length(self, url: str, total: int | None, have: int) -> None:
        """Judge an announced length before a byte is stored."""
        if total is None:
            return
        if self.archive.size is not None and total != self.archive.size:
            self._refuse(url, f"announces {total:,} bytes, the published file has {self.archive.size:,}")
        if self.archive.size is None and total > MAX_BYTES:
            self._refuse(url, f"announces {total:,} bytes; allowed: {MAX_BYTES:,}")
        free, need = shutil.disk_usage(self.part.parent).free, 2 * total - have
        if need > free:
            raise DataError(
                f"download: {_shown(url)} and its images need {need:,} bytes and {self.part.parent} has "
                f"{free:,} left; free some or set paths.data_dir"
            )

    def _refuse(self, url: str, why: str) -> NoReturn:
        self.forget()
        _give_up(url, why)


def _give_up(url: str, why: str) -> NoReturn:
    raise SourceError(f"download: {_shown(url)} {why}")


def _session(url: str) -> requests.Session:
    """It asks https only, which a private network cannot answer for, and this machine if ``url`` names it."""
    session = requests.Session()
    session.max_redirects = 5
    session.adapters.clear()
    session.mount("https://", requests.adapters.HTTPAdapter())
    if (here := _HERE.match(url)) is not None:
        session.mount(here[0], requests.adapters.HTTPAdapter())
    return session


def _shown(url: str) -> str:
    """An address without user, password and query, which may be secret."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()
