"""Detects what a checkpoint file is by its bytes; its name may be wrong, or a download may have failed."""

import zipfile
from pathlib import Path

from sr_lab.errors import CheckpointError

_ALLOWED = "give a PyTorch or safetensors file, or VDSR's .mat"
_AGAIN = "download or copy it again"
# First bytes of files that are not checkpoints, what such a file is, and what to do.
_FOREIGN = (
    (b"version https://git-lfs", f"is a Git LFS pointer, not the weights; {_AGAIN}, with git lfs pull"),
    (b"<", f"is a web page, not the file that was asked for; {_AGAIN}"),
    (b"\x1f\x8b", "is compressed with gzip; unpack it first"),
    (b"BZh", "is compressed with bzip2; unpack it first"),
    (b"\xfd7zXZ", "is compressed with xz; unpack it first"),
    (b"7z\xbc\xaf", "is a 7z archive; unpack it first"),
    (b"Rar!", "is a RAR archive; unpack it first"),
    (b"\x89HDF", f"is an HDF5 file (Keras, MATLAB 7.3); {_ALLOWED}"),
    (b"\x93NUMPY", f"is a NumPy array; {_ALLOWED}"),
    (b"\x89PNG", f"is an image; {_ALLOWED}"),
)
_END = b"PK\x05\x06"  # start of the last record of a zip archive, which has 22 bytes and a comment


def is_safetensors(file: Path) -> bool:
    """Whether a file begins like safetensors, with eight bytes for the length of a JSON header."""
    with file.open("rb") as content:
        head = content.read(9)
    return head[8:] == b"{"


def refuse_foreign(file: Path, key: str) -> None:
    """Refuse a file that is not a checkpoint, or not a complete one.

    Args:
        file: The file.
        key: The setting that names it, for error messages.

    Raises:
        CheckpointError: The message says what the file is instead, and what to do.
    """
    if is_safetensors(file):  # its own reader checks it; its first byte may be that of another format
        return
    with file.open("rb") as content:
        head = content.read(512)
        content.seek(max(0, file.stat().st_size - 2**16))
        tail = content.read()
    what = next((says for start, says in _FOREIGN if head.lstrip().startswith(start)), "")
    if not head:
        what = f"is empty; {_AGAIN}"
    elif head[257:262] == b"ustar":
        what = "is a tar archive; unpack it first"
    elif head.startswith(b"PK"):
        what = _wrong_with_zip(file, tail)
    elif head[:1] == b"\n" and len(head) > 2 and head[2 : 2 + head[1]].isascii() and b"\x12" in head:
        what = f"looks like a Caffe model; convert it first: {_ALLOWED}"
    elif file.suffix == ".safetensors" and head.startswith(b"\x80"):
        what = "is a pickle, not safetensors; rename it to .pth"
    if what:
        raise CheckpointError(f"{key}: '{file}' {what}")


def _wrong_with_zip(file: Path, tail: bytes) -> str:
    place = tail.rfind(_END)
    if place < 0:
        return f"is cut off: its end is missing; {_AGAIN}"
    comment = int.from_bytes(tail[place + 20 : place + 22], "little")  # our early checkpoints have one
    if len(tail) - place != 22 + comment:
        return f"has bytes after its end; {_AGAIN}"
    try:
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
    except zipfile.BadZipFile:
        return f"is damaged; {_AGAIN}"
    if not any(name.endswith("data.pkl") for name in names):
        kind = "a NumPy archive" if any(name.endswith(".npy") for name in names) else "a zip archive"
        return f"is {kind} without a checkpoint's data.pkl; {_ALLOWED}"
    return "is a PyTorch file, not safetensors; rename it to .pth" if file.suffix == ".safetensors" else ""


def is_text(file: Path) -> bool:
    """Whether a file begins with text, like a README or a configuration."""
    with file.open("rb") as opened:
        begin = opened.read(512)
    text = begin.decode(errors="ignore")  # the last character may be cut
    return len(text.encode()) > len(begin) - 4 > 0 and all(
        char.isprintable() or char.isspace() for char in text
    )
