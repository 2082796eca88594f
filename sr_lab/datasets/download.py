"""One file from one address: cut connections are taken up again, and nothing is believed that a server says.

pooch keeps the files and compares digests; it has no resuming, so the transfer itself is `Transfer`.
"""

import datetime
import hashlib
import ipaddress
import json
import os
import re
import shutil
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeAlias
from urllib.parse import urljoin, urlsplit

import pooch
import requests
import urllib3

from sr_lab import files
from sr_lab.datasets.registry import Archive
from sr_lab.errors import DataError

Report: TypeAlias = Callable[[int, int | None], object]  # bytes there, and of how many if that is known

MAX_BYTES = 64 << 30  # of an archive whose size nobody published; the largest, Flickr2K, has 20 GB
_PIECE = 1 << 20
_TIMEOUT = (15, 60)  # seconds to connect, and without a byte
_REDIRECTS = 5
_ATTEMPTS = 4  # in a row that bring not one byte


class SourceError(DataError):
    """This address is no good; another may be."""


class Digests:
    """Digests where none was published: the first download is trusted, every later one must equal it.

    Args:
        path: The lock file, JSON: address -> ``sha256``, ``bytes``, ``date``.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def check(self, url: str, file: Path) -> str:
        """SHA-256 of a download, equal to that of the first one from this address.

        Raises:
            SourceError: It differs.
            DataError: The lock file is broken.
        """
        digest: str = pooch.file_hash(str(file))
        first = self._read().get(url)
        if first is not None and first["sha256"] != digest:
            raise SourceError(
                f"download: {_shown(url)} has changed since {first['date']}, its SHA-256 is {digest} "
                f"instead of {first['sha256']}; if you trust the new one, remove the entry from {self.path}"
            )
        return digest

    def record(self, url: str, digest: str) -> bool:
        """Write the digest of a good download down; whether it is the first from this address."""
        known = self._read()
        if url in known:
            return False
        known[url] = {"sha256": digest, "date": datetime.datetime.now(datetime.UTC).date().isoformat()}
        files.write(self.path, json.dumps(known, indent=2) + "\n")
        return True

    def _read(self) -> dict[str, dict[str, str]]:
        try:
            known: dict[str, dict[str, str]] = json.loads(self.path.read_text())
            assert all({"sha256", "date"} <= entry.keys() for entry in known.values())
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, AttributeError, TypeError, AssertionError) as error:
            raise DataError(f"download: {self.path} cannot be read; mend or remove it") from error
        return known


def fetch(
    archive: Archive, url: str, folder: Path, *, report: Report | None = None, pause: float = 1.0
) -> Path:
    """An archive from one of its addresses, its published digest compared.

    Args:
        archive: What is expected.
        url: The address.
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
    transfer = Transfer(
        folder,
        max_bytes=archive.size or MAX_BYTES,
        size=archive.size,
        checked=archive.digest is not None,
        pause=pause,
        report=report,
    )
    # Not `archive.name`: two addresses of a file without a digest may differ.
    name = f"{hashlib.sha256(url.encode()).hexdigest()[:8]}-{_file_name(url)}"
    try:
        file = Path(pooch.retrieve(url, archive.digest, fname=name, path=folder, downloader=transfer))
    except SourceError:
        raise
    except ValueError as error:
        if isinstance(error, DataError):
            raise
        transfer.forget(url)
        kind = (archive.digest or "").partition(":")[0].upper().replace("SHA", "SHA-")
        raise SourceError(
            f"download: {_shown(url)} is not the published file: another {kind}; "
            "it was removed, take another mirror"
        ) from error
    transfer.forget(url)
    return file


class Transfer:
    """A downloader for pooch that resumes; what has come is kept in ``<folder>/<hash of the address>.part``.

    Args:
        folder: Where parts are kept, on the disk of the result.
        max_bytes: Longest answer that is accepted, whatever is announced.
        size: Exact length, where it was published.
        checked: Whether a digest is compared in the end, which would find two halves of different files.
        pause: See `fetch`, as ``report``.
        report: Called with the progress.
    """

    def __init__(
        self,
        folder: Path,
        *,
        max_bytes: int,
        size: int | None,
        checked: bool,
        pause: float,
        report: Report | None,
    ) -> None:
        self.folder, self.max_bytes, self.size, self.checked = folder, max_bytes, size, checked
        self.pause = pause
        self.report: Report = report or (lambda done, total: None)

    def __call__(self, url: str, output_file: str, _pooch: object, check_only: bool = False) -> None:
        """Download to ``output_file``, a file of pooch's in the same folder."""
        part = self.part(url)
        failures = 0
        while True:
            before = _length(part)
            try:
                self._attempt(url, part)
                break
            except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
                if isinstance(error, OSError) and error.errno is not None and not _is_network(error):
                    raise
                failures = failures + 1 if _length(part) <= before else 0
                if failures >= _ATTEMPTS:
                    raise SourceError(
                        f"download: {_shown(url)} does not answer ({_reason(error)}); "
                        "start again to go on where it stopped, or take another mirror"
                    ) from error
                time.sleep(self.pause * 2 ** max(0, failures - 1))
        # The part stays until the digest is right: a kill while it is computed must not cost the download.
        Path(output_file).unlink(missing_ok=True)
        try:
            os.link(part, output_file)
        except OSError:  # a file system without links
            part.replace(output_file)

    def part(self, url: str) -> Path:
        """What has come so far."""
        return self.folder / f"{hashlib.sha256(url.encode()).hexdigest()[:16]}.part"

    def forget(self, url: str) -> None:
        """Remove what has come: it is in its place, or it was wrong."""
        part = self.part(url)
        part.unlink(missing_ok=True)
        _validator_of(part).unlink(missing_ok=True)

    def _attempt(self, url: str, part: Path) -> None:
        """One connection: the rest of the file, or all of it where the server cannot or it has changed."""
        have = _length(part)
        validator = _read(_validator_of(part))
        if have and validator is None and not self.checked:
            part.unlink()  # nothing says that the rest would belong to it
            have = 0
        headers = {"Accept-Encoding": "identity", "User-Agent": "sr_lab"}
        if have:
            headers["Range"] = f"bytes={have}-"
        if have and validator is not None:
            headers["If-Range"] = validator
        with requests.Session() as session, _open(session, url, headers) as answer:
            if answer.status_code == 416 and answer.headers.get("Content-Range") == f"bytes */{have}":
                return  # it was whole, and only the digest was still to come
            if answer.status_code == 416:
                self.forget(url)
                raise requests.ConnectionError("the file has become shorter")
            if answer.status_code == 429 or answer.status_code >= 500:
                raise requests.ConnectionError(f"answers {answer.status_code}")
            if answer.status_code not in (200, 206):
                self._give_up(url, f"answers {answer.status_code} {answer.reason}")
            start, total = _extent(answer, have)
            if start != have:
                have = 0
                part.unlink(missing_ok=True)
            self._check_length(url, total, have)
            fresh = answer.headers.get("ETag") or answer.headers.get("Last-Modified")
            if fresh is not None and fresh.startswith("W/"):  # says that it is alike, not that it is equal
                fresh = answer.headers.get("Last-Modified")
            if not have and fresh is not None:
                _validator_of(part).write_text(fresh)
            self._receive(url, answer, part, have, total)

    def _receive(self, url: str, answer: requests.Response, part: Path, have: int, total: int | None) -> None:
        with part.open("ab") as file:
            self.report(have, total)
            for piece in answer.raw.stream(_PIECE, decode_content=False):
                have += len(piece)
                if have > (self.max_bytes if total is None else total):
                    self.forget(url)
                    self._give_up(url, f"sends more than {total or self.max_bytes:,} bytes")
                file.write(piece)
                self.report(have, total)
            file.flush()
            os.fsync(file.fileno())
        if total is not None and have < total:
            raise requests.ConnectionError(f"cut after {have:,} of {total:,} bytes")

    def _check_length(self, url: str, total: int | None, have: int) -> None:
        """Judge an announced length before a byte is stored."""
        if total is None:
            return
        if self.size is not None and total != self.size:
            self._give_up(url, f"announces {total:,} bytes, the published file has {self.size:,}")
        if total > self.max_bytes:
            self._give_up(url, f"announces {total:,} bytes; allowed: {self.max_bytes:,}")
        free = shutil.disk_usage(self.folder).free
        if total - have > free:
            raise DataError(
                f"download: {_shown(url)} needs {total - have:,} bytes and {self.folder} has {free:,} left; "
                "free some or set paths.data_dir"
            )

    def _give_up(self, url: str, why: str) -> None:
        raise SourceError(f"download: {_shown(url)} {why}; take another mirror")


def _open(session: requests.Session, url: str, headers: dict[str, str]) -> requests.Response:
    """Follow redirects by hand, each address judged before it is asked."""
    check_address(url)
    here = url
    for _ in range(_REDIRECTS + 1):
        answer = session.get(here, headers=headers, stream=True, allow_redirects=False, timeout=_TIMEOUT)
        location = answer.headers.get("Location")
        if answer.status_code not in (301, 302, 303, 307, 308) or location is None:
            return answer
        answer.close()
        there = urljoin(here, location)
        check_redirect(here, there)
        here = there
    raise SourceError(f"download: {_shown(url)} redirects more than {_REDIRECTS} times; take another mirror")


def check_address(url: str) -> None:
    """Refuse an address that is not https, or http on this machine.

    Raises:
        SourceError: It is another scheme, has no host, or carries a password.
    """
    parts = urlsplit(url)
    secure = parts.scheme == "https" or (parts.scheme == "http" and _is_here(parts.hostname or ""))
    if not secure or not parts.hostname or parts.username is not None or parts.password is not None:
        raise SourceError(
            f"download: {_shown(url)} is refused; allowed: https:// (http:// on this machine only)"
        )


def check_redirect(url: str, there: str) -> None:
    """Refuse a redirect that no honest server needs: to a file, without TLS, into a private network.

    Raises:
        SourceError: It leads there.
    """
    try:
        check_address(there)
        host = urlsplit(there).hostname or ""
        if not _is_here(urlsplit(url).hostname or "") and _is_private(host):
            raise SourceError("private")
    except (SourceError, ValueError) as error:
        raise SourceError(
            f"download: {_shown(url)} redirects to {_shown(there)}, which is refused; take another mirror"
        ) from error


def _is_here(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _is_private(host: str) -> bool:
    """Whether a name means an address off the public network; unknown names are the proxy's affair."""
    if _is_here(host):
        return True
    try:
        found = socket.getaddrinfo(host, None)
    except (OSError, UnicodeError):
        return False
    return any(not ipaddress.ip_address(str(entry[4][0]).partition("%")[0]).is_global for entry in found)


def _extent(answer: requests.Response, have: int) -> tuple[int, int | None]:
    """Where the answer's body begins, and how long the whole file is."""
    if answer.status_code == 206:
        found = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", answer.headers.get("Content-Range", ""))
        if found is None or int(found[1]) != have:
            raise SourceError(
                f"download: {_shown(answer.url)} sends a part that was not asked for; take another mirror"
            )
        return have, int(found[3])
    length = answer.headers.get("Content-Length", "")
    return 0, int(length) if re.fullmatch(r"\d{1,18}", length) else None


def _is_network(error: OSError) -> bool:
    return isinstance(error, (ConnectionError, TimeoutError, socket.gaierror, requests.RequestException))


def _reason(error: Exception) -> str:
    """A cause without the address, whose query may hold a token."""
    text = str(error)
    for known in (
        "timed out",
        "Name or service",
        "name resolution",
        "refused",
        "cut after",
        "answers",
        "certificate",
    ):
        if known in text:
            return text if known in ("cut after", "answers") else known
    return type(error).__name__


def _shown(url: str) -> str:
    """An address without user, password and query."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname or ''}{f':{parts.port}' if parts.port else ''}{parts.path}"


def _file_name(url: str) -> str:
    return re.sub(r"[^\w.-]+", "_", urlsplit(url).path.rpartition("/")[2]) or "archive"


def _validator_of(part: Path) -> Path:
    return part.with_suffix(".validator")


def _read(path: Path) -> str | None:
    with suppress(OSError):
        return path.read_text()
    return None


def _length(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
