"""Download one file from one address; resume after lost connections, and do not trust the server."""

import hashlib
import re
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, TypeAlias
from urllib.parse import urlsplit

import requests
import urllib3

from sr_lab.datasets.cache import digest_of
from sr_lab.datasets.registry import Archive
from sr_lab.errors import DataError

Report: TypeAlias = Callable[[int, int | None], object]  # bytes received, and the total if it is known

MAX_BYTES = 64 << 30  # limit without a published size; the largest archive, Flickr2K, is 20 GB
_PIECE = 1 << 20
_TIMEOUT = (15, 60)  # seconds to connect, and to wait for the next byte
_ATTEMPTS = 4  # maximum number of consecutive attempts that receive nothing
_BUSY = (429, 500, 502, 503, 504)
_HERE = re.compile(r"http://(localhost|127\.0\.0\.1|\[::1\])(:\d+)?/")  # this machine


class SourceError(DataError):
    """This address does not serve the file; another address may."""


def may_be_asked(url: str) -> bool:
    """Whether an address uses https or is on this machine."""
    return re.match(r"https://[^/]", url) is not None or _HERE.match(f"{url}/") is not None


def silent(done: int, total: int | None) -> None:
    """Report nothing."""


def fetch(archive: Archive, url: str, folder: Path, *, report: Report = silent, pause: float = 1.0) -> Path:
    """Download an archive from one of its addresses and compare it with the published digest.

    Args:
        archive: The archive to download.
        url: The address; https, or http on this machine. A redirect may lead only to https.
        folder: The folder for downloads; a file that is already there is used if its digest matches.
        report: Called with the bytes received and the total.
        pause: Seconds before the second attempt; it doubles after each attempt that receives nothing.

    Returns:
        The file.

    Raises:
        SourceError: The address does not answer, redirects to an address that is not allowed,
            or sends a different file.
        DataError: The disk has too little space.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # The name alone is not enough: without a digest, two addresses may serve different files.
    file = folder / f"{hashlib.sha256(url.encode()).hexdigest()[:8]}-{archive.name}"
    if file.is_file() and _is_right(file, archive):
        return file
    transfer = _Transfer(archive, url, file.with_name(f"{file.name}.part"), report, pause)
    transfer.run()
    if not _is_right(transfer.part, archive):
        transfer.forget()
        raise SourceError(
            f"download: {_shown(url)} sent a file that is not the published file; it was removed"
        )
    transfer.part.replace(file)
    transfer.forget()
    return file


def _is_right(file: Path, archive: Archive) -> bool:
    if archive.digest is None:
        return True
    kind, _, published = archive.digest.partition(":")
    return digest_of(file, kind) == published


@dataclass
class _Transfer:
    """A download that can be resumed.

    Args:
        archive: The archive to download.
        url: The address.
        part: File with the bytes received so far; the ``.etag`` file next to it names their version.
        report: See `fetch`.
        pause: See `fetch`.
    """

    archive: Archive
    url: str
    part: Path
    report: Report
    pause: float

    def run(self) -> None:
        """Download the whole file into ``part``."""
        failures = 0
        while True:
            before = self._length()
            try:
                with _session(self.url) as session:
                    self._attempt(session)
                return
            except DataError:
                raise
            except (ValueError, requests.TooManyRedirects):  # from the requests library
                self._give_up(
                    "is not allowed, redirects to an address that is not allowed, or redirects too often; "
                    "allowed: https, http on this machine"
                )
            except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
                failures = failures + 1 if self._length() <= before else 0
                if failures == _ATTEMPTS:
                    kept = "; the received bytes are kept" if self._length() else ""
                    self._give_up(f"does not answer ({type(error).__name__}){kept}")
                time.sleep(self.pause * 2 ** max(0, failures - 1))

    def forget(self) -> None:
        """Remove the partial file and its ``.etag``."""
        self.part.unlink(missing_ok=True)
        self._etag.unlink(missing_ok=True)

    @property
    def _etag(self) -> Path:
        return self.part.with_suffix(".etag")

    def _length(self) -> int:
        return self.part.stat().st_size if self.part.exists() else 0

    def _attempt(self, session: requests.Session) -> None:
        """Fetch the rest of the file over one connection, or the whole file if the server cannot resume."""
        if self.archive.digest is None and not self._etag.exists():
            self.part.unlink(missing_ok=True)  # otherwise, a newer version of the file would go unnoticed
        have = self._length()
        headers = {"Accept-Encoding": "identity", "User-Agent": "sr_lab"}
        if have:
            headers["Range"] = f"bytes={have}-"
            with suppress(FileNotFoundError):
                headers["If-Range"] = self._etag.read_text(encoding="utf-8")
        with session.get(self.url, headers=headers, stream=True, timeout=_TIMEOUT) as answer:
            if answer.status_code == 416 and answer.headers.get("Content-Range") == f"bytes */{have}":
                return  # the partial file was already complete
            total = self._announced(answer, have)
            have = self._length()
            self._check_length(total, have)
            most = total or self.archive.size or MAX_BYTES
            self.report(have, total)
            with self.part.open("ab") as file:
                for piece in answer.raw.stream(_PIECE, decode_content=False):
                    have += len(piece)
                    if have > most:
                        self._refuse(f"sends more than {most:,} bytes")
                    file.write(piece)
                    self.report(have, total)

    def _announced(self, answer: requests.Response, have: int) -> int | None:
        """Length of the whole file according to a response; the part is removed if the server starts over."""
        if answer.status_code in _BUSY:
            answer.raise_for_status()
        if answer.status_code == 206:
            found = re.fullmatch(r"bytes (\d+)-\d+/(\d{1,18})", answer.headers.get("Content-Range", ""))
            if found is None or int(found[1]) != have:
                self._refuse("sends a range that was not requested")
            return int(found[2])
        if answer.status_code != 200:
            if answer.status_code == 416:  # the file has become shorter
                self.forget()
            self._give_up(f"answers {answer.status_code} {answer.reason}")
        self.forget()
        if (etag := answer.headers.get("ETag", "")).startswith('"'):  # a weak one may match two versions
            self._etag.write_text(etag, encoding="utf-8")
        length = answer.headers.get("Content-Length", "")
        return int(length) if re.fullmatch(r"\d{1,18}", length) else None

    def _check_length(self, total: int | None, have: int) -> None:
        """Refuse a wrong length before any byte is stored."""
        if total is None:
            return
        if self.archive.size is not None and total != self.archive.size:
            self._refuse(f"announces {total:,} bytes, but the published file has {self.archive.size:,}")
        if self.archive.size is None and total > MAX_BYTES:
            self._refuse(f"announces {total:,} bytes; allowed: {MAX_BYTES:,}")
        free, need = shutil.disk_usage(self.part.parent).free, 2 * total - have
        if need > free:
            raise DataError(
                f"download: {_shown(self.url)} and its images need {need:,} bytes, but only {free:,} are "
                f"free in {self.part.parent}; free space there or set paths.data_dir"
            )

    def _refuse(self, why: str) -> NoReturn:
        self.forget()
        self._give_up(why)

    def _give_up(self, why: str) -> NoReturn:
        raise SourceError(f"download: {_shown(self.url)} {why}")


def _session(url: str) -> requests.Session:
    """A session that opens https addresses, and addresses on this machine if ``url`` is one of them.

    A redirect cannot reach a server in a private network, since such a server has no valid certificate.
    """
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
