"""Each malformed input gives the right result or a one-sentence error, quickly and in little memory."""

import hashlib
import io
import json
import os
import pickle
import struct
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sr_lab.checkpoints.reading import open_checkpoint
from sr_lab.checkpoints.weights import load_weights
from sr_lab.config import hydra_guard
from sr_lab.config.untrusted import stored_network
from sr_lab.datasets.folder import FolderDataset
from sr_lab.datasets.images import list_images, read_image
from sr_lab.degradations.bicubic import BicubicDegradation
from sr_lab.errors import DataError
from sr_lab.models.imdn import IMDN
from sr_lab.reporting import saved_images
from sr_lab.reporting.curves import read as read_curves
from sr_lab.reporting.results import COLUMNS, read_results
from sr_lab.reporting.runs import read_run
from sr_lab.reporting.settings import flat
from sr_lab.run_folder import RunFolder, read_index
from tests.security import hostile
from tests.security.judged import Judged, all_judged, judged


def told(result: Judged, *right: object) -> None:
    """Expect a one-sentence error, or one of the right results if any are given."""
    assert result.odd == ""
    if not result.error:
        assert result.value in right


# Images

FORMATS = ("PNG", "JPEG", "TIFF", "GIF", "BMP", "WEBP")
WHOLE = {kind: hostile.picture(kind, size=(61, 47)) for kind in FORMATS}
SHARES = (0, 1, 8, 0.1, 0.25, 0.5, 0.75, 0.9, -1)


def digest(pixels: np.ndarray) -> list[object]:
    return [list(pixels.shape), str(pixels.dtype), hashlib.sha256(pixels.tobytes()).hexdigest()]


def reading(content: bytes, path: Path) -> Callable[[], object]:
    """Read an image with this content."""

    def read() -> object:
        path.write_bytes(content)
        return digest(read_image(path))

    return read


def pixels_of(content: bytes, path: Path) -> Judged:
    return judged(reading(content, path))


def truth(content: bytes) -> list[object]:
    """The pixels as Pillow alone reads them."""
    with Image.open(io.BytesIO(content)) as image:
        return digest(np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("kind", FORMATS)
def test_a_truncated_image_is_refused_or_read_completely(tmp_path, kind):
    whole = WHOLE[kind]

    def read() -> object:
        found = []
        for share in SHARES:
            cut = whole[: int(share * len(whole)) if isinstance(share, float) else share]
            (tmp_path / "a.png").write_bytes(cut)
            try:
                found.append(digest(read_image(tmp_path / "a.png")))
            except DataError as error:
                found.append(str(error).count("\n"))
        return found

    result = judged(read)
    assert result.odd == ""
    assert [one for one in result.value if one not in (0, truth(whole))] == []
    assert result.value[:7] == [0] * 7


@pytest.mark.slow
@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("extension", [".png", ".jpg", ".tif", ".gif", ".bmp", ".webp"])
def test_an_image_with_the_suffix_of_another_format_is_read_by_its_content(tmp_path, kind, extension):
    assert pixels_of(WHOLE[kind], tmp_path / f"a{extension}").value == truth(WHOLE[kind])


@pytest.mark.parametrize("kind", FORMATS)
def test_an_image_with_trailing_data_is_read_or_refused(tmp_path, kind):
    told(pixels_of(WHOLE[kind] + b"PK\x03\x04" + bytes(1000), tmp_path / "a.png"), truth(WHOLE[kind]))


def edited(kind: str, place: int, form: str, *values: int) -> bytes:
    content = bytearray(WHOLE[kind])
    struct.pack_into(form, content, place, *values)
    return bytes(content)


def with_crc(content: bytes) -> bytes:
    """A PNG whose first chunk was changed and given a valid checksum."""
    return content[:29] + struct.pack(">I", zlib.crc32(content[12:29])) + content[33:]


FRAME = WHOLE["JPEG"].index(b"\xff\xc0") + 5
LIES = {
    **{
        f"png {w}x{h}": with_crc(edited("PNG", 16, ">II", w, h))
        for w, h in [
            (0, 0),
            (0, 47),
            (61, 0),
            (1, 47),
            (61, 1),
            (62, 47),
            (61, 48),
            (65_535, 65_535),
            (2**31, 1),
            (2**32 - 1, 2**32 - 1),
        ]
    },
    "png depth 16": with_crc(edited("PNG", 24, "B", 16)),
    "png depth 3": with_crc(edited("PNG", 24, "B", 3)),
    "png colour 3 without a palette": with_crc(edited("PNG", 25, "B", 3)),
    "png colour 7": with_crc(edited("PNG", 25, "B", 7)),
    "png filter 9": hostile.png(4, 4, data=zlib.compress(b"\x09" + bytes(12) * 4 + bytes(3))),
    "png interlaced": with_crc(edited("PNG", 28, "B", 1)),
    "png wrong checksum of its head": edited("PNG", 29, ">I", 1),
    "png chunk of 2 GiB": edited("PNG", 33, ">I", 2**31 - 1),
    "png chunk of 4 GiB": edited("PNG", 33, ">I", 2**32 - 1),
    "png two heads": WHOLE["PNG"][:33] + WHOLE["PNG"][8:],
    "png without data": WHOLE["PNG"][:33] + hostile.chunk(b"IEND", b""),
    "png data is no zlib": hostile.png(4, 4, data=b"hello"),
    "png too little data": hostile.png(4, 4, data=zlib.compress(bytes(20))),
    **{
        f"jpeg {w}x{h}": edited("JPEG", FRAME, ">HH", h, w)
        for w, h in [(0, 47), (61, 0), (65_535, 65_535), (65_535, 1)]
    },
    "jpeg no components": edited("JPEG", FRAME + 4, "B", 0),
    "jpeg two heads": WHOLE["JPEG"][:2] + WHOLE["JPEG"],
    "jpeg head alone": WHOLE["JPEG"][:2] + b"\xff\xd9",
    **{f"gif {w}x{h}": edited("GIF", 6, "<HH", w, h) for w, h in [(0, 0), (65_535, 65_535)]},
    "gif no palette": edited("GIF", 10, "B", 0),
    "gif code size 255": hostile.gif(1).replace(b"\x02\x02\x44", b"\xff\x02\x44"),
    "gif no frame": hostile.gif(0),
    "gif frame outside": hostile.gif(1).replace(
        b"\x2c" + struct.pack("<HHHHB", 0, 0, 1, 1, 0),
        b"\x2c" + struct.pack("<HHHHB", 9000, 9000, 60_000, 60_000, 0),
    ),
    **{
        f"bmp {w}x{h}": edited("BMP", 18, "<ii", w, h)
        for w, h in [(0, 0), (-1, 1), (2**31 - 1, 2**31 - 1), (61, -(2**31)), (60_000, 60_000)]
    },
    "bmp 5 bits": edited("BMP", 28, "<H", 5),
    "bmp data elsewhere": edited("BMP", 10, "<I", 2**31),
    "bmp compression 99": edited("BMP", 30, "<I", 99),
    "bmp run-length": edited("BMP", 28, "<HI", 8, 1),
    "webp length 0": edited("WEBP", 4, "<I", 0),
    "webp length 4 GiB": edited("WEBP", 4, "<I", 2**32 - 1),
    "webp no frame": b"RIFF\x0c\0\0\0WEBPVP8 \0\0\0\0",
    "tiff no directory": b"II*\0" + struct.pack("<I", 2**31),
    "tiff directory in itself": hostile.tiff(hostile.tiff_tags(4, 4), bytes(100), following=8),
    "tiff no tags": hostile.tiff({}),
    "tiff 65,535 tags": b"II*\0\x08\0\0\0\xff\xff" + bytes(100),
    "tiff big": b"II+\0\x08\0\0\0" + struct.pack("<Q", 2**63),
    "empty": b"",
    "zeros": bytes(1000),
    "text": b"hello",
    "fifty megabytes of zeros": bytes(50 * 2**20),
}
RIGHT = {"bmp data elsewhere", "tiff directory in itself", "webp length 4 GiB", "png two heads"}


@pytest.fixture(scope="module")
def false_headers(tmp_path_factory) -> dict[str, Judged]:
    path = tmp_path_factory.mktemp("lies") / "a.png"
    return all_judged({name: reading(content, path) for name, content in LIES.items()})


@pytest.mark.parametrize("name", LIES)
def test_an_image_with_a_false_header_is_refused_or_read_as_pillow_reads_it(false_headers, name):
    result = false_headers[name]
    assert result.odd == ""
    if not result.error:  # Pillow must read the same whole image
        assert result.value == truth(LIES[name])


KINDS = {
    "1": ("PNG", "TIFF"),
    "L": ("PNG", "JPEG", "TIFF", "BMP"),
    "LA": ("PNG",),
    "P": ("PNG", "GIF", "BMP", "TIFF"),
    "RGBA": ("PNG", "TIFF", "WEBP"),
    "CMYK": ("JPEG", "TIFF"),
    "YCbCr": ("JPEG",),
    "I;16": ("PNG", "TIFF"),
    "I": ("TIFF",),
    "F": ("TIFF",),
    "LAB": ("TIFF",),
}


@pytest.mark.slow
@pytest.mark.parametrize(("mode", "kind"), [(mode, kind) for mode, kinds in KINDS.items() for kind in kinds])
def test_an_image_of_another_mode_is_read_or_refused_and_never_read_if_truncated(tmp_path, mode, kind):
    if mode == "I;16":
        content = io.BytesIO()
        Image.fromarray(np.arange(400, dtype=np.uint16).reshape(20, 20) << 6).save(content, kind)
        whole = content.getvalue()
    else:
        whole = hostile.picture(kind, mode=mode, size=(40, 30))
    result = pixels_of(whole, tmp_path / "a.png")
    assert result.odd == ""
    assert ("32-bit" in result.error) == (mode in ("I", "F"))
    for share in (0.3, 0.8):
        told(pixels_of(whole[: int(share * len(whole))], tmp_path / "b.png"), result.value)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["PNG", "GIF", "TIFF", "WEBP"])
def test_an_image_of_several_frames_is_refused_even_if_truncated(tmp_path, kind):
    whole = hostile.picture(kind, frames=4)
    for share in (0.2, 0.5, 0.8, 1.0):
        told(pixels_of(whole[: int(share * len(whole))], tmp_path / "a.png"))


EXIF = {
    "turned": (b"\x12\x01\x03\0\x01\0\0\0\x06\0\0\0", True),
    "turned 99 times": (b"\x12\x01\x03\0\x01\0\0\0\x63\0\0\0", False),
    "turned by a text": (b"\x12\x01\x02\0\x04\0\0\0abc\0", False),
    "a billion values": (b"\x12\x01\x03\0\xff\xff\xff\x7f\x08\0\0\0", False),
    "a place of 4 GiB": (b"\x0f\x01\x02\0\xff\0\0\0\xff\xff\xff\xff", False),
    "directory in itself": (b"\x69\x87\x04\0\x01\0\0\0\x08\0\0\0", False),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("name", EXIF)
def test_false_camera_metadata_changes_no_pixel(tmp_path, kind, name):
    entry, is_turned = EXIF[name]
    notes = b"Exif\0\0II*\0\x08\0\0\0\x01\0" + entry + bytes(4)
    result = pixels_of(hostile.picture(kind, size=(61, 47), exif=notes), tmp_path / "a.png")
    with Image.open(io.BytesIO(WHOLE[kind])) as image:
        upright = np.asarray(image.convert("RGB"))
    told(result, digest(np.ascontiguousarray(np.rot90(upright, -1)) if is_turned else upright))
    assert not (is_turned and result.error)


# Checkpoints


def saved(content: object) -> bytes:
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def net() -> torch.nn.Module:
    return torch.nn.Linear(3, 2)


STATE = {name: value.detach() for name, value in net().state_dict().items()}
CKPT = saved(STATE)
SAFE = __import__("safetensors.torch", fromlist=["save"]).save(STATE)


def loading(content: bytes, path: Path) -> Callable[[], object]:
    """Load a checkpoint with this content and return the weights of the network."""

    def read() -> object:
        path.write_bytes(content)
        network = net()
        load_weights(network, open_checkpoint(str(path)))
        return [value.tolist() for value in network.state_dict().values()]

    return read


VALUES = [value.tolist() for value in STATE.values()]


@pytest.mark.parametrize(("suffix", "whole"), [("ckpt", CKPT), ("safetensors", SAFE)])
def test_a_truncated_checkpoint_is_refused(tmp_path, suffix, whole):
    path = tmp_path / f"a.{suffix}"
    ends = {s: int(s * len(whole)) if isinstance(s, float) else s for s in (*SHARES, -8, -22, -100)}
    found = all_judged({share: loading(whole[:end], path) for share, end in ends.items()})
    assert {share: result.odd for share, result in found.items()} == dict.fromkeys(ends, "")
    assert [share for share, result in found.items() if not result.error] == []


def header(**changed: object) -> bytes:
    """A safetensors file of the network; ``changed`` replaces fields in the header's entry for ``weight``."""
    weight = {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]} | changed
    return hostile.safetensors(
        {"weight": weight, "bias": {"dtype": "F32", "shape": [2], "data_offsets": [24, 32]}}, bytes(32)
    )


def weights(**changed: object) -> bytes:
    return saved(STATE | changed)


NESTED: list[object] = []
for _ in range(200):
    NESTED = [NESTED]
BAD_CHECKPOINTS = {
    "safetensors": {
        "another type": header(dtype="F64"),
        "no such type": header(dtype="F33"),
        "a type of none": header(dtype=None),
        "whole numbers": header(dtype="I32"),
        "truth values": header(dtype="BOOL", data_offsets=[0, 6]),
        "another shape": header(shape=[3, 2]),
        "a negative shape": header(shape=[-2, -3]),
        "a flat shape": header(shape=[6]),
        "a shape of texts": header(shape=["2", "3"]),
        "a shape of fractions": header(shape=[2.0, 3.0]),
        "a huge shape": header(shape=[2**32, 2**32]),
        "offsets turned round": header(data_offsets=[24, 0]),
        "offsets outside": header(data_offsets=[0, 2**40]),
        "negative offsets": header(data_offsets=[-24, 0]),
        "one offset": header(data_offsets=[0]),
        "a key too much": header(more=1),
        "no header": b"",
        "a list": hostile.safetensors([]),
        "a text": hostile.safetensors("x"),
        "nothing": hostile.safetensors({}),
        "no utf-8": hostile.safetensors(b"{\xff}"),
        "a name twice": hostile.safetensors(
            b'{"w":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"w":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}',
            b"1",
        ),
        "not a number": hostile.safetensors(
            {
                "weight": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
                "bias": {"dtype": "F32", "shape": [2], "data_offsets": [24, 32]},
            },
            struct.pack("<8f", *[float("nan")] * 8),
        ),
        "a pickle": CKPT,
        "zeros": bytes(10**6),
    },
    "ckpt": {
        "a text": b"hello",
        "a png": WHOLE["PNG"],
        "zeros": bytes(10**6),
        "an empty zip": b"PK\x05\x06" + bytes(18),
        "a missing weight": saved({"weight": STATE["weight"]}),
        "a weight too much": weights(more=torch.ones(1)),
        "not a number": weights(bias=torch.tensor([1.0, float("nan")])),
        "infinite": weights(bias=torch.tensor([1.0, float("inf")])),
        "complex": weights(bias=torch.ones(2, dtype=torch.complex64)),
        "whole numbers": weights(bias=torch.ones(2, dtype=torch.int64)),
        "truth values": weights(bias=torch.tensor([True, False])),
        "another shape": weights(bias=torch.ones(2, 1)),
        "a number": weights(bias=1.0),
        "a text for a weight": weights(bias="x"),
        "none": weights(bias=None),
        "empty": weights(bias=torch.ones(0)),
        "a huge one": weights(bias=torch.ones(1).expand(10**9)),
        "a list": saved([1]),
        "a number alone": saved(1),
        "nothing": saved({}),
        "deep": saved({"state_dict": NESTED}),
        "wrapped 50 times": saved(
            __import__("functools").reduce(lambda inner, _: {"model": inner}, range(50), STATE)
        ),
        "names that are numbers": saved({1: torch.ones(2), "1": torch.ones(2)}),
        "ours without weights": saved({"sr_lab": {}, "state_dict": {}}),
        "ours with other weights": saved({"sr_lab": {}, "state_dict": {"network.weight": 1}}),
        "a pickle of protocol 0": pickle.dumps(STATE, 0),
        "a pickle of protocol 5": pickle.dumps([1], 5),
        "an endless mark": b"\x80\x02" + b"(" * 10**5,
        "a deep list": b"\x80\x02" + b"]" * 10**4 + b"a" * (10**4 - 1) + b".",
        "a memo of 4 GiB": b"\x80\x02r\xff\xff\xff\xff.",
        "a text of 4 GiB": b"\x80\x02X\xff\xff\xff\xffabc.",
        "bytes of 16 EiB": b"\x80\x04\x8e" + b"\xff" * 8 + b".",
        "a storage too short": hostile.in_zip(hostile.tensor_pickle((2,), (1,), 100), ("data/0", bytes(8))),
        "no storage": hostile.in_zip(hostile.tensor_pickle((2,), (1,), 2)),
        "negative strides": hostile.in_zip(hostile.tensor_pickle((2,), (-1,), 2), ("data/0", bytes(8))),
        "negative sizes": hostile.in_zip(hostile.tensor_pickle((-2,), (1,), 2), ("data/0", bytes(8))),
    },
    "mat": {
        "empty": b"",
        "a text": b"hello" * 100,
        "cut": b"MATLAB 5.0".ljust(124) + b"\0\1IM" + struct.pack("<II", 15, 1000) + b"x",
        "a length of 4 GiB": b"MATLAB 5.0".ljust(124) + b"\0\1IM" + struct.pack("<II", 14, 2**32 - 1),
        "zeros": bytes(1000),
        "old": struct.pack("<5i", 0, 2**30, 2**30, 0, 6) + b"model\0",
        "hdf5": b"MATLAB 7.3".ljust(124) + b"\0\2IM" + bytes(400),
    },
}


BAD = {(suffix, name): content for suffix, all_ in BAD_CHECKPOINTS.items() for name, content in all_.items()}


@pytest.fixture(scope="module")
def bad_checkpoints(tmp_path_factory) -> dict[tuple[str, str], Judged]:
    folder = tmp_path_factory.mktemp("bad")
    return all_judged({bad: loading(content, folder / f"a.{bad[0]}") for bad, content in BAD.items()})


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("suffix", "name"), BAD)
def test_a_malformed_checkpoint_is_refused_or_loaded_correctly(bad_checkpoints, suffix, name):
    zeros = [[[0.0] * 3] * 2, [0.0] * 2]
    right = (zeros,) if name == "a key too much" else ()  # the format allows this
    told(bad_checkpoints[suffix, name], *right)


@pytest.mark.parametrize(("suffix", "whole"), [("ckpt", CKPT), ("safetensors", SAFE)])
def test_the_valid_checkpoint_is_loaded(tmp_path, suffix, whole):
    """Otherwise, code that refused every checkpoint would pass the tests above."""
    assert judged(loading(whole, tmp_path / f"a.{suffix}")).value == VALUES


GOOD = {
    "model": {"_target_": "sr_lab.models.imdn.IMDN", "scale": 2},
    "scale": 2,
    "upsampler": {"name": "native", "factory": None},
    "strategy": {"name": "none", "apply": None},
}
RECORDS = [
    *({key: value for key, value in GOOD.items() if key != left} for left in GOOD),
    *(GOOD | {"scale": scale} for scale in (0, 1, -2, "2", 2.5, None, True, [2], 10**30)),
    *(
        GOOD | {"model": model}
        for model in (
            None,
            "IMDN",
            [],
            {},
            {"_target_": 7},
            {"_target_": ""},
            {"_target_": "sr_lab"},
            {"_target_": "sr_lab..x"},
            {"_target_": "sr_lab.models.imdn.IMDN", "typo": 1},
            {"_target_": "sr_lab.models.imdn.IMDN", 7: 1},
            {"_target_": "sr_lab.models.imdn.IMDN", "num_feat": "x"},
            {"_target_": "sr_lab.models.imdn.IMDN", "num_feat": float("nan")},
        )
    ),
    *(
        GOOD | {"strategy": strategy}
        for strategy in (
            None,
            {},
            {"name": "x"},
            {"name": "x", "apply": {"_target_": "sr_lab.runs.sweep.run"}},
        )
    ),
]


@pytest.fixture(scope="module")
def false_records() -> dict[int, Judged]:
    assert isinstance(IMDN, type)  # import before the fork
    return all_judged(
        {number: lambda r=record: str(stored_network(r, "a.ckpt")) for number, record in enumerate(RECORDS)}
    )


@pytest.mark.parametrize("number", range(len(RECORDS)))
def test_a_false_record_of_a_network_is_refused(false_records, number):
    told(false_records[number])


# Texts

YAMLS = {
    "empty": "",
    "a list": "[1, 2]",
    "a number": "7",
    "a text": "hello",
    "cut": "model: {a: [1,",
    "a tab": "a:\n\tb: 1",
    "two documents": "a: 1\n---\nb: 2\n",
    "a key twice": "a: 1\na: 2\n",
    "a list for a key": "? [a]\n: 1\n",
    "a mapping for a key": "? {a: 1}\n: 1\n",
    "an unknown anchor": "a: *b\n",
    "itself": "a: &a [*a]\n",
    "laughs": hostile.laughs(),
    "a tag": "a: !!python/name:os.system\n",
    "an unknown tag": "a: !x y\n",
    "no utf-8": b"a: \xff\xfe\n",
    "utf-16": "a: 1\n".encode("utf-16"),
    "a null byte": b"a: \0\n",
    "deep": "a: " + "[" * 3000,
    "deep mappings": "a: " + "{b: " * 3000,
    "a long key": f"{'k' * 100_000}: 1\n",
    "a date": "a: 2020-99-99\n",
    "a number of a million digits": f"a: {'9' * 1_000_000}\n",
    "a base-60 number": "a: 1:99:99\n",
    "binary": "a: !!binary x\n",
    "merged": "a: &a {x: 1}\nb: {<<: *a}\n",
    "merged with a number": "b: {<<: 7}\n",
    "ten megabytes": "#" * 10_000_000,
    "carriage returns": "a: 1\rb: 2\r",
    "escapes": 'a: "\\ud800\\x00\\x1b"\n',
}


Read = Callable[[Path], object]


def folders_judged(
    parent: Path, file: str, contents: Mapping[str, str | bytes], read: Read
) -> dict[str, Judged]:
    """Read a folder for each content, with the content in a file of the given name."""
    folders = {name: parent / f"{number}-00000000" for number, name in enumerate(contents)}
    for name, content in contents.items():
        folders[name].mkdir()
        (folders[name] / file).write_bytes(content if isinstance(content, bytes) else content.encode())
    return all_judged({name: lambda f=folder: read(f) for name, folder in folders.items()})


@pytest.fixture(scope="module")
def configurations(tmp_path_factory) -> list[dict[str, Judged]]:
    """Each content as the configuration of a run folder, and as one of Hydra's files."""
    return [
        folders_judged(tmp_path_factory.mktemp("yaml"), "config.yaml", YAMLS, read)
        for read in (
            lambda folder: [flat(read_run(folder)), read_run(folder).problem],
            lambda folder: hydra_guard.check_size(folder / "config.yaml"),
        )
    ]


@pytest.mark.parametrize("name", YAMLS)
def test_a_malformed_configuration_is_ignored_or_refused(configurations, name):
    """In a run folder, it is ignored; as a file for Hydra, it is refused before anything is built."""
    of_a_run, result = (found[name] for found in configurations)
    assert of_a_run.odd == of_a_run.error == ""
    assert of_a_run.value[1] == "unfinished"
    told(result, None)
    if name in ("cut", "itself", "laughs", "deep", "deep mappings", "ten megabytes", "an unknown anchor"):
        assert result.error


ONE = "test/Set5/psnr_y"
JSONS = {
    "empty": "",
    "cut": '{"scale": 4',
    "a list": "[]",
    "a number": "7",
    "null": "null",
    "a text": '"x"',
    "deep": "[" * 10**5,
    "deep objects": '{"a":' * 10**5,
    "no utf-8": b'{"scale": \xff}',
    "utf-16": '{"scale": 4}'.encode("utf-16"),
    "a huge number": f'{{"{ONE}": {"9" * 5000}}}',
    "a large number": f'{{"{ONE}": {"9" * 4000}}}',
    "out of range": f'{{"{ONE}": 1e999}}',
    "not a number": f'{{"{ONE}": NaN}}',
    "a text for a figure": f'{{"{ONE}": "32.1"}}',
    "true for a figure": f'{{"{ONE}": true}}',
    "a list for a figure": f'{{"{ONE}": [32.1]}}',
    "true for a scale": '{"scale": true, "seed": true}',
    "a text for a scale": '{"scale": "4"}',
    "a huge scale": f'{{"scale": {10**30}}}',
    "images that are none": '{"images": 7}',
    "an image that is none": '{"images": [7, null, {}]}',
    "a name of another type": '{"run": {"a": 1}, "table": 7, "row": [1]}',
    "a surrogate": '{"run": "\\ud800"}',
    "an escape": '{"run": "\\u001b[2J"}',
    "a key twice": f'{{"{ONE}": 1, "{ONE}": 2}}',
    "a table": '{"table": {"paper": ["x"], "name": null}}',
    "a score": '{"images": [{"set_name": "a", "image": "b", "psnr_y": "x", "ssim_y": true}]}',
    "seventy megabytes": '{"a": "' + "x" * 70_000_000 + '"}',
    "a bare key": f'{{"{ONE[:9]}": 1, "test//psnr_y": 2, "/psnr_y": 3}}',
}


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> dict[str, Judged]:
    def read(folder: Path) -> object:
        run = read_run(folder)
        text = "".join([run.name, str(run.scale), str(run.seed), str(run.table), str(run.sets), run.problem])
        text.encode()
        saved_images.find([run])
        return [run.number(ONE), run.scale, str(RunFolder(folder).state())]

    return folders_judged(tmp_path_factory.mktemp("json"), "metrics.json", JSONS, read)


@pytest.mark.parametrize("name", JSONS)
def test_malformed_results_are_read_or_left_out(results, name):
    result = results[name]
    assert result.odd == result.error == ""
    psnr, scale, _ = result.value
    assert scale == 0
    if psnr is not None:  # the value in the file, or NaN if it is not a number
        assert psnr == {"out of range": float("inf"), "a key twice": 2}.get(name) or psnr != psnr


@pytest.mark.slow
@pytest.mark.parametrize("name", JSONS)
def test_a_malformed_index_of_a_sweep_is_refused(tmp_path, name):
    content = JSONS[name]
    (tmp_path / "sweep.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    told(judged(lambda: [str(job) for job in read_index(tmp_path)]))


JOBS = [
    7,
    [7],
    [None],
    [{}],
    [{"folder": "a"}],
    {"folder": "a"},
    [{"folder": "a", "label": 7, "overrides": []}],
    [{"folder": "a", "label": None, "overrides": "x"}],
    [{"folder": "a", "label": None, "overrides": [7]}],
    [{"folder": "a", "label": None, "overrides": [], "more": 1}],
    [{"folder": ".", "label": None, "overrides": []}],
]


def test_malformed_jobs_are_refused(tmp_path):
    indices = {repr(jobs): json.dumps({"jobs": jobs}) for jobs in JOBS}
    found = folders_judged(tmp_path, "sweep.json", indices, lambda f: [str(job) for job in read_index(f)])
    for result in found.values():
        told(result)


CSVS = {
    "empty": "",
    "a head": "step,val/psnr_y\n",
    "no head": "1,2\n3,4\n",
    "too few": "step,val/psnr_y\n1\n",
    "too many": "step,val/psnr_y\n1,30,99,98\n",
    "an open quote": 'step,val/psnr_y\n1,"30\n2,31\n',
    "a null byte": "step,val/psnr_y\n1,\x0030\n",
    "no utf-8": b"step,val/psnr_y\n1,\xff30\n",
    "a huge field": f"step,val/psnr_y\n1,{'9' * 200_000}\n",
    "texts": "step,val/psnr_y\nx,y\n",
    "infinite": "step,val/psnr_y\n1,inf\n",
    "not a number": "step,val/psnr_y\n1,nan\n",
    "a column twice": "step,val/psnr_y,val/psnr_y\n1,30,99\n",
    "a column without a name": "step,,val/psnr_y\n1,2,30\n",
    "a hundred thousand columns": ",".join(f"c{n}" for n in range(100_000)) + "\n1\n",
    "carriage returns": "step,val/psnr_y\r1,30\r",
    "a formula": "step,val/psnr_y\n1,=1+1\n",
    "underscores": "step,val/psnr_y\n1,3_0\n",
    "other digits": "step,val/psnr_y\n\u0661,\u0663\u0660\n",
    "cut": "step,val/psnr_y\n1,30\n2,3",
}


@pytest.fixture(scope="module")
def records(tmp_path_factory) -> dict[str, Judged]:
    def read(folder: Path) -> object:
        (folder / "config.yaml").write_text("a: 1\n")
        run = read_run(folder)
        RunFolder(folder).progress()
        RunFolder(folder).validations()
        return [run.validation_psnr, len(read_curves([run], "val/psnr_y"))]

    return folders_judged(tmp_path_factory.mktemp("csv"), "metrics.csv", CSVS, read)


@pytest.mark.parametrize("name", CSVS)
def test_a_malformed_record_is_read_or_left_out(records, name):
    result = records[name]
    assert result.odd == result.error == ""
    right = {"too many": 30.0, "carriage returns": 30.0, "cut": 30.0, "a column without a name": 30.0}
    assert result.value[0] == right.get(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", CSVS)
def test_malformed_results_of_a_paper_are_refused(tmp_path, name):
    content = CSVS[name]
    (tmp_path / "results.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    told(judged(lambda: read_results(tmp_path / "results.csv")))


ROWS = [
    "x",
    "x," * 20,
    '"x',
    "a\0b",
    ",".join("x" * 15) + ",more",
    ",".join(["t", "r", "m", "four", "Set5", "psnr_y", "x"]),
]


def test_malformed_rows_of_a_paper_are_refused(tmp_path):
    files = {row: ",".join(COLUMNS) + f"\n{row}\n" for row in ROWS}
    for result in folders_judged(
        tmp_path, "results.csv", files, lambda f: read_results(f / "results.csv")
    ).values():
        told(result)


# Folders


def photograph(path: Path, width: int = 32, height: int = 28) -> None:
    Image.fromarray(np.full((height, width, 3), 9, np.uint8)).save(path, "PNG")


def pairs(folder: Path) -> Path:
    for name in ("hr", "lr"):
        (folder / name).mkdir()
        for number in range(3):
            size = (32, 28) if name == "hr" else (16, 14)
            photograph(folder / name / f"{number}.png", *size)
    return folder


DIGITS = 64  # length of the digest of a prepared folder


def preparing(folder: Path) -> Callable[[], object]:
    def read() -> object:
        dataset = FolderDataset(
            hr_dir=str(folder / "hr"),
            lr_dir=str(folder / "lr"),
            scale=2,
            lr_patch_size=8,
            degradation=BicubicDegradation(scale=2),
            cache_dir=str(folder / "cache"),
        )
        dataset.prepare()
        return len(dataset.manifest())

    return read


FOLDERS: dict[str, Callable[[Path], object]] = {
    "lr one pixel wider": lambda f: photograph(f / "lr/0.png", 17, 14),
    "lr one pixel lower": lambda f: photograph(f / "lr/0.png", 16, 13),
    "lr as large as hr": lambda f: photograph(f / "lr/0.png", 32, 28),
    "hr one pixel": lambda f: photograph(f / "hr/0.png", 1, 1),
    "hr narrow": lambda f: photograph(f / "hr/0.png", 1, 1000),
    "lr missing": lambda f: (f / "lr/0.png").unlink(),
    "lr a folder": lambda f: ((f / "lr/0.png").unlink(), (f / "lr/0.png").mkdir()),
    "lr empty": lambda f: (f / "lr/0.png").write_bytes(b""),
    "hr empty": lambda f: (f / "hr/0.png").write_bytes(b""),
    "hr sparse": lambda f: os.truncate(f / "hr/0.png", 2**40),
    "hr all sparse": lambda f: (f.joinpath("hr/0.png").write_bytes(b""), os.truncate(f / "hr/0.png", 2**40)),
    "hr a text": lambda f: (f / "hr/0.png").write_text("hello"),
    "a stem twice": lambda f: photograph(f / "hr/0.bmp"),
    "a stem twice in lr": lambda f: photograph(f / "lr/0.bmp", 16, 14),
    "a dead link": lambda f: ((f / "lr/0.png").unlink(), (f / "lr/0.png").symlink_to("nowhere")),
    "a link to itself": lambda f: ((f / "lr/0.png").unlink(), (f / "lr/0.png").symlink_to("0.png")),
    "a pipe": lambda f: ((f / "lr/0.png").unlink(), os.mkfifo(f / "lr/0.png")),
    "no folder": lambda f: [path.unlink() for path in (f / "hr").iterdir()],
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Judged]:
    made = {name: pairs(tmp_path_factory.mktemp("folder")) for name in FOLDERS}
    for name, change in FOLDERS.items():
        change(made[name])
    return all_judged({name: preparing(folder) for name, folder in made.items()})


@pytest.mark.parametrize("name", FOLDERS)
def test_a_malformed_folder_of_images_is_refused_or_prepared(folders, name):
    # An intact image that is followed by a gap in its file may be read.
    told(folders[name], *([DIGITS] if name == "hr sparse" else []))


ODD_NAMES = [
    "a\udcff",
    "a\nb",
    "..a",
    "a..",
    "a b",
    "\u202egnp",
    "-rf",
    "~",
    "$(touch ran)",
    "a'b\"",
    "%s%n",
    "x" * 240,
    "CON",
    "\x1b[2J",
]


def test_an_image_with_an_odd_name_is_still_read(tmp_path_factory):
    made = {name: pairs(tmp_path_factory.mktemp("odd")) for name in ODD_NAMES}
    for name, folder in made.items():
        for part, size in (("hr", (32, 28)), ("lr", (16, 14))):
            photograph(folder / part / f"{name}.png", *size)
    found = all_judged({name: preparing(folder) for name, folder in made.items()})
    assert found == dict.fromkeys(ODD_NAMES, Judged(value=DIGITS))
    assert len(list_images(made["..a"] / "hr")) == 3  # hidden files do not count
    assert len(list_images(made["a b"] / "hr")) == 4


def test_a_loop_of_folders_does_not_hang_the_search(tmp_path):
    folder = pairs(tmp_path)
    (folder / "hr" / "loop").symlink_to(folder / "hr")
    (folder / "hr" / "loop.png").symlink_to(folder / "hr")
    assert len(list_images(folder / "hr")) == 3
