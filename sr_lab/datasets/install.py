"""Downloading an image set into the folder that the data sets and benchmarks read."""

import fcntl
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

from sr_lab.datasets import archives, facts
from sr_lab.datasets.cache import in_parallel
from sr_lab.datasets.download import Digests, Report, SourceError, fetch
from sr_lab.datasets.images import list_images, read_image
from sr_lab.datasets.registry import Archive, ImageSet
from sr_lab.errors import DataError

Say: TypeAlias = Callable[[str], object]


class Store:
    """Image sets below one data folder.

    An image set comes into being by one rename: its folder is there whole and checked, or not at all.

    Args:
        data_dir: ``paths.data_dir``.
        mirror: Address of a server that has the archives under their own names, asked before all others.
        say: Called with a sentence for the user, e.g. which address failed.
        report: Called with the name of an archive and the progress of its download.
        pause: See `fetch`.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        mirror: str | None = None,
        say: Say = lambda sentence: None,
        report: Callable[[str], Report] | None = None,
        pause: float = 1.0,
    ) -> None:
        self.data_dir, self.mirror, self.say, self.pause = data_dir, mirror, say, pause
        self.report = report or (lambda name: lambda done, total: None)
        self.downloads = data_dir / ".downloads"
        self.digests = Digests(data_dir / "downloads.lock.json")
        self._used: set[Path] = set()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes out; archives that were unpacked are removed at the end if all went well.

        Raises:
            DataError: Another process downloads here, or the folder cannot be written.
        """
        try:
            self.downloads.mkdir(parents=True, exist_ok=True)
            with (self.downloads / "lock").open("a") as lock:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError as error:
                    raise DataError(
                        f"prepare: another process downloads to {self.data_dir}; wait for it"
                    ) from error
                for leftover in self.downloads.glob("tmp*"):  # of pooch, when it was killed
                    leftover.unlink()
                yield
                for archive in self._used:
                    archive.unlink(missing_ok=True)
        except OSError as error:
            raise DataError(
                f"prepare: cannot write to {self.data_dir}: {error.strerror or error}; "
                "free space there or set paths.data_dir"
            ) from error

    def install(self, wanted: ImageSet) -> str:
        """Download a set, unless it is there; what was done, as a sentence's part.

        Raises:
            OSError: The folder cannot be written.
            DataError: The set is there and wrong, or no address gave the right images.
        """
        target = self.data_dir / wanted.folder
        if target.is_dir() and any(target.iterdir()):
            if (fault := self._fault(wanted, target)) is not None:
                raise DataError(
                    f"prepare: {target} is there and is not {wanted.name}: {fault}; "
                    "task=doctor says more; move the folder away to download it anew"
                )
            return f"is there already, {self._checked(wanted)}"
        if wanted.by_hand:
            raise DataError(
                f"prepare: {wanted.name} is not for download: {wanted.by_hand}, put the images into {target}"
            )
        failures = []
        for archive, url in self._addresses(wanted):
            try:
                return self._install(wanted, archive, url, target)
            except SourceError as error:
                failures.append(str(error))
                self.say(f"{wanted.name}: {error}")
        raise DataError(
            f"prepare: none of {len(failures)} addresses gave {wanted.name} (the last: {failures[-1]}); "
            f"put the archive on a server of yours (mirror=...) or the images into {target}"
        )

    def _addresses(self, wanted: ImageSet) -> list[tuple[Archive, str]]:
        public = [(archive, url) for archive in wanted.archives for url in archive.urls]
        if self.mirror is None:
            return public
        root = self.mirror.rstrip("/")
        return [(archive, f"{root}/{archive.name}") for archive in wanted.archives] + public

    def _install(self, wanted: ImageSet, archive: Archive, url: str, target: Path) -> str:
        file = fetch(archive, url, self.downloads, report=self.report(archive.name), pause=self.pause)
        published = (archive.digest or "").startswith("sha256:")
        digest = "" if published else self.digests.check(url, file)
        target.parent.mkdir(parents=True, exist_ok=True)
        for leftover in target.parent.glob(f".{target.name}.*.tmp"):
            shutil.rmtree(leftover)
        unpacked = target.parent / f".{target.name}.{uuid.uuid4().hex}.tmp"
        unpacked.mkdir()
        try:
            images = archives.unpack(file, unpacked, members=archive.members)
            if wanted.name in facts.facts():
                _rename(wanted.name, images)
            elif not published:
                in_parallel(read_image, images)
            if (fault := self._fault(wanted, unpacked)) is not None:
                raise DataError(f"archive: {file.name} holds another {wanted.name}: {fault}")
            if target.is_dir():
                target.rmdir()  # it is empty
            unpacked.rename(target)
        except DataError as error:
            file.unlink()  # it would be taken again
            raise SourceError(str(error)) from error
        finally:
            shutil.rmtree(unpacked, ignore_errors=True)
        self._used.add(file)
        return f"{wanted.count} images in {target}, {self._told(wanted, archive, url, digest)}"

    def _told(self, wanted: ImageSet, archive: Archive, url: str, digest: str) -> str:
        """How far the images can be trusted."""
        if not digest:
            return "SHA-256 of the archive as published"
        first = self.digests.record(url, digest)
        if wanted.name in facts.facts():
            return "every pixel as published"
        weaker = "only the MD5 as published" if archive.digest is not None else "no digest is published"
        earlier = "trusted as the first download" if first else "the same as the first download"
        return f"{weaker}: {earlier}, SHA-256 {digest} in {self.digests.path}"

    def _checked(self, wanted: ImageSet) -> str:
        return "every pixel right" if wanted.name in facts.facts() else f"{wanted.count} images by name"

    def _fault(self, wanted: ImageSet, folder: Path) -> str | None:
        """What keeps the images of a folder from being this set."""
        images = list_images(folder)
        if wanted.name in facts.facts():
            verdicts = {image: facts.judge(image, wanted.name) for image in images}
            for image, verdict in verdicts.items():
                if verdict.state == "wrong":
                    return f"{image.name} is {verdict.says}"
            found = {verdict.fact for verdict in verdicts.values()}
            absent = [fact.file for fact in facts.facts()[wanted.name] if fact not in found]
        else:
            absent = missing(wanted, {image.stem for image in images})
        if absent:
            return f"{len(absent)} of {wanted.count} images are missing, the first {absent[0]}"
        return (
            f"it has {len(images)} images instead of {wanted.count}" if len(images) != wanted.count else None
        )


def missing(wanted: ImageSet, stems: set[str]) -> list[str]:
    """Names that a set of numbered images lacks."""
    if wanted.numbers is None:
        return []
    first, digits = wanted.numbers
    names = (f"{number:0{digits}d}" for number in range(first, first + wanted.count))
    return [name for name in names if name not in stems]


def _rename(name: str, images: list[Path]) -> None:
    """Give benchmark images the names that papers' tables have; archives differ in them (img001, img_001)."""
    for image in images:
        fact = facts.identify(read_image(image))
        if fact is not None and fact.set_name == name and image.stem != Path(fact.file).stem:
            target = image.with_name(Path(fact.file).stem + image.suffix)
            if target.exists():
                raise DataError(f"archive: two images of {name} have the pixels or the name of {fact.file}")
            image.rename(target)
