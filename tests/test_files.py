import errno
import os
from pathlib import Path

import pytest

from sr_lab import files


def test_a_write_replaces_the_whole_file(tmp_path):
    path = tmp_path / "new" / "a.txt"
    files.write(path, "a long first content")
    files.write(path, "short")
    assert path.read_text() == "short"


def test_bytes_are_written_unchanged(tmp_path):
    files.write(tmp_path / "a.png", b"\x89\r\n")
    assert (tmp_path / "a.png").read_bytes() == b"\x89\r\n"


def test_a_failed_write_keeps_the_old_file_and_leaves_no_other_file(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    files.write(path, "old")

    def full(_: int) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space left"):
        files.write(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("chained", [False, True])
def test_the_error_of_a_failed_write_names_the_target_file(tmp_path, chained):
    def full() -> None:
        try:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            if chained:
                raise RuntimeError("unexpected pos 832") from error  # torch chains its errors like this
            raise

    with pytest.raises((OSError, RuntimeError)) as raised, files.replacing(tmp_path / "a.txt"):
        full()
    found = raised.value.__cause__ if chained else raised.value
    assert (found.filename, found.strerror) == (str(tmp_path / "a.txt"), "No space left on device")


def test_the_error_for_a_missing_folder_names_the_target_file(tmp_path):
    with pytest.raises(FileNotFoundError) as raised, files.replacing(tmp_path / "gone" / "a.txt"):
        pytest.fail("it was opened")
    assert raised.value.filename == str(tmp_path / "gone" / "a.txt")


def test_a_file_is_flushed_to_the_disk_before_it_is_renamed(tmp_path, monkeypatch):
    steps = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda handle: (steps.append("flushed"), fsync(handle)))

    def renamed(source, target) -> None:
        steps.append((Path(source).read_text(), Path(source).parent == tmp_path))
        replace(source, target)

    monkeypatch.setattr(os, "replace", renamed)
    files.write(tmp_path / "a.txt", "content")
    assert steps == ["flushed", ("content", True), "flushed"]  # first the content, then the renaming


def test_files_get_the_permissions_that_the_umask_allows(tmp_path):
    old = os.umask(0o022)
    try:
        files.write(tmp_path / "a.txt", "content")
    finally:
        os.umask(old)
    assert (tmp_path / "a.txt").stat().st_mode & 0o777 == 0o644
