"""Hand-made hostile files: images, pickles, archives and headers with false or malicious content."""

import io
import json
import pickle
import struct
import sys
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from PIL import Image

# Audit events of a payload that acts outside Python; opening files and importing are too common to count.
_ACTS = {
    *("os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.startfile", "subprocess.Popen"),
    *("socket.connect", "urllib.Request", "webbrowser.open", "ftplib.connect", "smtplib.connect"),
}
_seen: list[str] | None = None


def _hook(event: str, arguments: tuple[object, ...]) -> None:
    if _seen is not None and event in _ACTS:
        _seen.append(f"{event}{arguments}")


sys.addaudithook(_hook)  # only once, as a hook cannot be removed


@contextmanager
def nothing_runs() -> Iterator[None]:
    """Fail if the code in this context starts a process or opens a connection."""
    global _seen
    _seen = []
    try:
        yield
        assert _seen == []
    finally:
        _seen = None


# Pickles


def call(function: str, *arguments: str) -> bytes:
    """A pickle that calls the function ``module name`` with strings and unpickles to its result."""
    module, _, name = function.partition(" ")
    texts = b"".join(b"X" + struct.pack("<I", len(a.encode())) + a.encode() for a in arguments)
    return b"\x80\x02c" + f"{module}\n{name}\n".encode() + b"(" + texts + b"tR."


def in_zip(
    pickled: bytes, *more: tuple[str, bytes], compression: int = zipfile.ZIP_STORED, root: str = "archive"
) -> bytes:
    """A zip archive with this pickle, laid out as ``torch.save`` does."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", compression) as archive:
        entries = (("data.pkl", pickled), ("byteorder", b"little"), ("version", b"3\n"), *more)
        for name, data in entries:
            archive.writestr(f"{root}/{name}", data)
    return content.getvalue()


def tensor_pickle(shape: tuple[int, ...], stride: tuple[int, ...], elements: int) -> bytes:
    """The pickle of a state dict ``{"w": ...}`` whose only storage ``data/0`` has that many floats."""

    class _Persistent(pickle.Pickler):
        def persistent_id(self, thing: object) -> object:
            return ("storage", _float_storage(), "0", "cpu", elements) if thing is _STORAGE else None

    content = io.BytesIO()
    _Persistent(content, 2).dump({"w": _Rebuilt(shape, stride)})
    return content.getvalue()


_STORAGE = object()


def _float_storage() -> type:
    import torch

    return torch.FloatStorage


class _Rebuilt:
    def __init__(self, shape: tuple[int, ...], stride: tuple[int, ...]) -> None:
        self.arguments = (_STORAGE, 0, shape, stride, False, {})

    def __reduce__(self) -> object:
        import torch._utils

        return torch._utils._rebuild_tensor_v2, self.arguments


def safetensors(header: object, data: bytes = b"", *, length: int | None = None) -> bytes:
    """A safetensors file with the given header, which is JSON data or raw bytes."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


# Pictures


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(
    width: int, height: int, *, colour: int = 2, depth: int = 8, data: bytes | None = None, extra: bytes = b""
) -> bytes:
    """A PNG with black pixels, or with the given compressed data."""
    if data is None:
        channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
        row = bytes(1 + (width * channels * depth + 7) // 8)
        packer = zlib.compressobj(9)
        data = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    parts = chunk(b"IHDR", header) + extra + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def picture(
    kind: str, *, mode: str = "RGB", size: tuple[int, int] = (23, 17), frames: int = 1, **options: object
) -> bytes:
    """An image of noise in one of Pillow's formats."""
    rng = np.random.default_rng(0)
    made = [
        Image.fromarray(rng.integers(0, 256, (*size[::-1], 3), dtype=np.uint8)).convert(mode)
        for _ in range(frames)
    ]
    content = io.BytesIO()
    more = {"save_all": True, "append_images": made[1:]} if frames > 1 else {}
    made[0].save(content, kind, **more, **options)
    return content.getvalue()


def gif(frames: int) -> bytes:
    """An animated GIF of one pixel with that many frames."""
    head = b"GIF89a" + struct.pack("<HHBBB", 1, 1, 0x80, 0, 0) + b"\x00\x00\x00\xff\xff\xff"
    frame = b"\x21\xf9\x04\x00\x01\x00\x00\x00" + b"\x2c" + struct.pack("<HHHHB", 0, 0, 1, 1, 0)
    return head + (frame + b"\x02\x02\x44\x01\x00") * frames + b";"


def tiff(tags: dict[int, tuple[int, int, bytes]], data: bytes = b"", *, following: int = 0) -> bytes:
    """A little-endian TIFF with one directory at byte 8; ``tags`` maps a number to (type, count, 4 bytes)."""
    entries = b"".join(
        struct.pack("<HHI", tag, kind, count) + value for tag, (kind, count, value) in sorted(tags.items())
    )
    directory = struct.pack("<H", len(tags)) + entries + struct.pack("<I", following)
    return b"II*\0" + struct.pack("<I", 8) + directory + data


def tiff_tags(width: int, height: int, **more: tuple[int, int, bytes]) -> dict[int, tuple[int, int, bytes]]:
    """The tags of a grey 8-bit image with one strip after the directory."""

    def number(value: int) -> tuple[int, int, bytes]:
        return (4, 1, struct.pack("<I", value))

    tags = {256: number(width), 257: number(height), 258: number(8), 259: number(1), 262: number(1)}
    tags |= {273: number(134), 277: number(1), 278: number(height), 279: number(width * height)}
    tags |= {int(name[1:]): value for name, value in more.items()}
    return {tag: value for tag, value in tags.items() if "_324" not in more or tag not in (273, 278, 279)}


# Texts


def laughs(levels: int = 9, *, inside: str = "") -> str:
    """A kilobyte of YAML that expands to ten to the power of ``levels`` values."""
    lines = [f"{inside}a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    for level in range(1, levels):
        lines.append(f"{inside}a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 10)}]")
    return "\n".join(lines) + "\n"
