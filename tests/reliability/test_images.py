"""Images that change between attempts, and a cache whose build is killed."""

import random
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.reliability import results
from tests.reliability.comparing import differences
from tests.reliability.forge import Forge
from tests.reliability.test_faults import breaks, sentence


def draw(path: Path, seed: int) -> None:
    """Write a random image; its file has the same size for every seed."""
    pixels = np.random.default_rng(seed).integers(0, 256, (48, 60, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def images(tmp_path) -> Path:
    """Four images, the last of which is for validation."""
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(4):
        draw(folder / f"{number}.bmp", number)
    return folder


def of(images: Path) -> tuple[str, ...]:
    """Overrides for a run on these images."""
    return f"dataset.hr_dir={images}", f"paths.cache_dir={images.parent}/cache"


def half(forge: Forge, folder: Path, images: Path) -> None:
    assert forge.train(folder, *of(images), *breaks("memory")).code == 1


def test_a_new_run_says_that_a_similar_one_was_trained_on_other_images(forge, tmp_path, images):
    half(forge, tmp_path / "run-a", images)
    draw(images / "1.bmp", 9)
    shutil.copy(images / "0.bmp", images / "00.bmp")
    ended = forge.train(tmp_path / "run-b", *of(images))
    assert ended.code == 0, ended.said
    assert (
        f"dataset: 2 training image(s) have changed (00.bmp, 1.bmp) since '{tmp_path}/run-a' was trained; "
        "this is a new run" in ended.said.splitlines()
    )


def test_runs_with_the_same_images_or_with_other_settings_are_not_mentioned(forge, tmp_path, images):
    half(forge, tmp_path / "run-a", images)
    assert "have changed" not in forge.train(tmp_path / "run-b", *of(images), *breaks("memory")).said
    draw(images / "00.bmp", 9)
    assert (
        "have changed" not in forge.train(tmp_path / "run-c", *of(images), "seed=1", *breaks("memory")).said
    )


def test_a_run_does_not_resume_with_images_that_were_replaced(forge, tmp_path, images):
    whole, folder = tmp_path / "whole" / "run", tmp_path / "half" / "run"
    assert forge.train(whole, *of(images)).code == 0
    half(forge, folder, images)
    draw(images / "1.bmp", 9)
    ended = forge.train(folder, *of(images))
    assert ended.code == 1
    assert sentence(ended) == (
        f"dataset: 1 training image(s) have changed (1.bmp) since '{folder}' was started; restore the "
        f"images, start from scratch with resume=never, or remove {folder}/images.json to use the new images"
    )
    draw(images / "1.bmp", 1)
    moved = images.rename(tmp_path / "moved")  # the folder does not matter
    ended = forge.train(folder, *of(moved))
    assert ended.code == 0, ended.said
    assert "have changed" not in ended.said
    assert differences(whole, folder) == []


@pytest.mark.parametrize("change", ["replaced", "other folder", "validation"])
def test_a_finished_run_says_that_it_was_trained_on_other_images(forge, tmp_path, images, change):
    folder = tmp_path / "run"
    assert forge.train(folder, *of(images)).code == 0
    copied = Path(shutil.copytree(images, tmp_path / "copied", copy_function=shutil.copyfile))
    for same in (images, copied):
        assert "have changed" not in forge.train(folder, *of(same), f"paths.cache_dir={tmp_path}/empty").said
    asked = copied if change == "other folder" else images
    name = "3.bmp" if change == "validation" else "1.bmp"
    draw(asked / name, 9)
    kind = "validation" if change == "validation" else "training"
    said = forge.train(folder, *of(asked)).said
    assert (
        f"dataset: 1 {kind} image(s) have changed ({name}) since '{folder}' was trained; the results are for "
        "the earlier images; resume=never trains on the current ones" in said.splitlines()
    )
    assert said.index("already finished") < said.index("have changed") < said.index("PSNR")
    trained = forge.train(folder, *of(asked), "resume=never")
    assert trained.code == 0
    assert "have changed" not in forge.train(folder, *of(asked)).said


def test_a_run_resumes_with_other_images_once_its_list_of_images_is_removed(forge, tmp_path, images):
    half(forge, tmp_path / "run", images)
    draw(images / "1.bmp", 9)
    (tmp_path / "run" / "images.json").unlink()
    assert forge.train(tmp_path / "run", *of(images)).code == 0


# The cache


@pytest.fixture(scope="module")
def many(tmp_path_factory) -> Path:
    """Images that take a second to decode and downscale."""
    folder = tmp_path_factory.mktemp("many")
    for number in range(12):
        pixels = np.random.default_rng(number).integers(0, 256, (20, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((480, 320), Image.Resampling.BICUBIC).save(folder / f"{number}.png")
    return folder


def content(cache: Path) -> dict[str, bytes]:
    return {str(path.relative_to(cache)): path.read_bytes() for path in cache.rglob("*") if path.is_file()}


@pytest.mark.parametrize("kills", [2, pytest.param(results.size(20, 200), marks=pytest.mark.slow)])
@pytest.mark.timeout(2000)
def test_a_cache_whose_build_is_killed_is_completed_later(forge, many, tmp_path, kills):
    prepared = forge.prepare(many, tmp_path / "whole")
    assert prepared.code == 0, prepared.said
    whole = content(tmp_path / "whole")
    assert len(whole) == 2 * (
        len(list(many.iterdir())) - 1 + 2
    )  # minus the validation image, plus manifest and lock
    chance, lost, orphans, killed, started = random.Random(kills), [], 0, 0, time.perf_counter()
    while killed < kills:
        cache = tmp_path / "killed"
        shutil.rmtree(cache, ignore_errors=True)
        attempt = forge.prepare(many, cache, kill_after=chance.uniform(0.02, 1) * prepared.seconds)
        if attempt.code != -signal.SIGKILL:
            continue
        killed += 1
        orphans += len(list(cache.rglob(".*.tmp")))
        again = forge.prepare(many, cache)
        found = content(cache)
        wrong = sorted(name for name in whole.keys() | found.keys() if whole.get(name) != found.get(name))
        lost += [f"kill {killed}: {again.said} {wrong}"] if again.code != 0 or wrong else []
    if kills > 2:
        seconds = time.perf_counter() - started
        results.store("kill -9 while the cache is built", count=kills, lost=len(lost), seconds=seconds)
        assert orphans > 0  # some kills interrupted a write
    assert lost == []
