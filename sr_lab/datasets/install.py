"""Download an image set into the folder from which datasets and benchmarks read it."""

import datetime
import json
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from sr_lab import files
from sr_lab.datasets import archives, doctor, facts
from sr_lab.datasets.cache import digest_of, in_parallel
from sr_lab.datasets.download import Report, SourceError, fetch, may_be_asked, silent
from sr_lab.datasets.images import list_images, read_image
from sr_lab.datasets.layouts import Place
from sr_lab.datasets.registry import Archive, ImageSet, benchmark_dir
from sr_lab.errors import ConfigError, DataError


@dataclass(eq=False)
class Store:
    """Image sets in one data folder.

    The folder of a set is created by a single rename: it is either complete and checked, or missing. If no
    SHA-256 of an archive is published, the digest of the first good download is written to
    ``downloads.lock.json``, and every later download must match it.

    Args:
        data_dir: ``paths.data_dir``.
        mirror: Address of a server that has the archives under their original names; it is tried first.
        say: Called with a sentence for the user, e.g. which address failed.
        report: Called with the name of an archive; returns the function that shows its progress.
        pause: See `fetch`.

    Raises:
        ConfigError: ``mirror`` is not an allowed address.
    """

    data_dir: Path
    _: KW_ONLY
    mirror: str | None = None
    say: Callable[[str], object] = lambda sentence: None
    report: Callable[[str], Report] = lambda name: silent
    pause: float = 1.0

    def __post_init__(self) -> None:
        if self.mirror is not None and not may_be_asked(self.mirror):
            raise ConfigError(f"mirror: got '{self.mirror}'; allowed: https://..., http on this machine")
        self.downloads = self.data_dir / ".downloads"
        self.lock_file = self.data_dir / "downloads.lock.json"
        self._used: set[Path] = set()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Lock out other processes; at the end, unpacked archives are removed.

        Raises:
            DataError: Another process is downloading here, or the folder cannot be written.
        """
        try:
            self.downloads.mkdir(parents=True, exist_ok=True)
            with FileLock(self.downloads / "lock", blocking=False):
                yield
                for archive in self._used:  # an archive may contain several sets
                    archive.unlink(missing_ok=True)
        except Timeout as error:
            raise DataError(f"prepare: another process is downloading to {self.data_dir}; wait") from error
        except OSError as error:
            raise DataError(
                f"prepare: cannot write to {self.data_dir}: {error.strerror or error}; "
                "free space there or set paths.data_dir"
            ) from error

    def install(self, wanted: ImageSet) -> str:
        """Download a set unless it exists; returns what was done, as a phrase that follows the set's name.

        Raises:
            OSError: The folder cannot be written.
            DataError: The folder contains something else, or no address served the right images.
        """
        target = self.data_dir / wanted.folder
        if wanted.name in facts.facts():
            target = benchmark_dir(self.data_dir, wanted.name)
        if target.is_dir() and any(target.iterdir()):
            if (fault := _fault(wanted, target)) is not None:
                raise DataError(
                    f"prepare: {target} exists but is not {wanted.name}: {fault}; "
                    "see task=doctor for details, or move the folder away to download the set again"
                )
            known = "every pixel right" if wanted.name in facts.facts() else f"{wanted.count} images"
            return f"is already there, with {known}"
        if wanted.by_hand:
            raise DataError(
                f"prepare: {wanted.name} cannot be downloaded: {wanted.by_hand} "
                f"and put the images into {target}"
            )
        own = [] if self.mirror is None else [self.mirror.rstrip("/")]
        sources = [(archive, f"{root}/{archive.name}") for archive in wanted.archives for root in own]
        sources += [(archive, url) for archive in wanted.archives for url in archive.urls]
        failures = []
        for archive, url in sources:
            try:
                file = fetch(archive, url, self.downloads, report=self.report(archive.name), pause=self.pause)
                return f"{wanted.count} images in {target}, {self._unpack(wanted, archive, file, target)}"
            except SourceError as error:
                failures.append(str(error))
                self.say(f"{wanted.name}: {error}")
        raise DataError(
            f"prepare: no address served {wanted.name} ({len(failures)} tried; last error: {failures[-1]}); "
            f"put the archive on your own server (mirror=...) or the images into {target}"
        )

    def _unpack(self, wanted: ImageSet, archive: Archive, file: Path, target: Path) -> str:
        """Move the images into their folder if they are right; returns what was compared."""
        target.parent.mkdir(parents=True, exist_ok=True)
        for leftover in target.parent.glob(f".{target.name}.*.tmp"):
            shutil.rmtree(leftover)
        unpacked = target.parent / f".{target.name}.{uuid.uuid4().hex}.tmp"
        unpacked.mkdir()
        published = (archive.digest or "").startswith("sha256:")
        try:
            images = archives.unpack(file, unpacked, members=archive.members)
            if wanted.name in facts.facts():
                _rename(wanted.name, images)
            elif not published:
                in_parallel(read_image, images)
            if (fault := _fault(wanted, unpacked)) is not None:
                raise DataError(f"archive: {archive.name} does not hold {wanted.name}: {fault}")
            pinned = "SHA-256 of the archive as published" if published else self._pin(archive, file)
            if target.is_dir():
                target.rmdir()  # it is empty
            unpacked.rename(target)
        except DataError as error:
            file.unlink()  # otherwise the next call would use this file
            raise SourceError(str(error)) from error
        finally:
            shutil.rmtree(unpacked, ignore_errors=True)
        self._used.add(file)
        return "every pixel as published" if wanted.name in facts.facts() else pinned

    def _pin(self, archive: Archive, file: Path) -> str:
        """Compare an archive with the first download of that name, or record it as the first."""
        digest = digest_of(file)
        try:
            known = json.loads(self.lock_file.read_text(encoding="utf-8")) if self.lock_file.exists() else {}
            first = known.setdefault(archive.name, {"sha256": digest, "date": f"{datetime.date.today()}"})
            same, date = first["sha256"] == digest, first["date"]
        except (ValueError, AttributeError, TypeError, KeyError) as error:
            raise DataError(f"download: {self.lock_file} cannot be read; repair or remove it") from error
        if not same:
            raise SourceError(
                f"download: {archive.name} has changed since {date}: its SHA-256 is now {digest}; if you "
                f"trust the new file, remove the entry from {self.lock_file}"
            )
        files.write(self.lock_file, json.dumps(known, indent=2) + "\n")
        weaker = "no SHA-256" if archive.digest is None else "only an MD5"
        return f"{weaker} is published; the SHA-256 of {date} is recorded in {self.lock_file}"


def _fault(wanted: ImageSet, folder: Path) -> str | None:
    """Why the images of a folder are not this set; ``None`` if they are."""
    try:
        images = list_images(folder)
    except DataError as error:
        return str(error).removeprefix("images: ").partition(";")[0]
    if wanted.name in facts.facts():
        place = Place(folder, tuple(images), tree="ours", role="HR", set_name=wanted.name)
        wrong = [
            f"{one.where.name} is {one.says}" for one in doctor.benchmark_set(place) if one.state == "wrong"
        ]
        return wrong[-1] if wrong else None
    if absent := wanted.missing(images):
        return f"{len(absent)} of {wanted.count} images are missing, starting with {absent[0]}"
    return f"it has {len(images)} images instead of {wanted.count}" if len(images) != wanted.count else None


def _rename(name: str, images: list[Path]) -> None:
    """Give benchmark images the names used in papers' tables; archives call them img001 or img_001."""
    for image in images:
        fact = facts.identify(read_image(image))
        if fact is None or fact.set_name != name or image.stem == Path(fact.file).stem:
            continue
        target = image.with_name(Path(fact.file).stem + image.suffix)
        if target.exists():
            raise DataError(f"archive: two images of {name} have the pixels or the name of {fact.file}")
        image.rename(target)
