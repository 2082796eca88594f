"""The wheel contains its configuration and works from any folder."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    source = out / "source"
    tracked = ("conf", "sr_lab", "experiments", "pyproject.toml", "README.md", "LICENSE")
    source.mkdir()
    subprocess.run(["cp", "-r", *(str(ROOT / name) for name in tracked), str(source)], check=True)
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(source)]
    subprocess.run(build, check=True, capture_output=True)
    (built,) = out.glob("*.whl")
    return built


def test_the_wheel_contains_every_package_and_every_yaml(wheel: Path):
    names = set(zipfile.ZipFile(wheel).namelist())
    code = {str(path.relative_to(ROOT)) for path in (ROOT / "sr_lab").rglob("*.py")}
    settings = {f"sr_lab/{path.relative_to(ROOT)}" for path in (ROOT / "conf").rglob("*.yaml")}
    figures = {f"sr_lab/{path.relative_to(ROOT)}" for path in (ROOT / "experiments").rglob("expected.csv")}
    page = {str(path.relative_to(ROOT)) for path in (ROOT / "sr_lab" / "reporting").glob("page.*")}
    assert len(page) == 4
    assert code | settings | figures | page | {"sr_lab/py.typed"} <= names


def test_an_installed_wheel_works_from_another_folder(wheel: Path, tmp_path: Path):
    site, elsewhere = tmp_path / "site", tmp_path / "elsewhere"
    elsewhere.mkdir()
    install = ["install", "--quiet", "--no-deps", "--no-index", "--no-compile", "--target", str(site)]
    subprocess.run([sys.executable, "-m", "pip", *install, str(wheel)], check=True, capture_output=True)
    # The target folder comes before the checkout that this environment may have installed in place.
    environment = {**os.environ, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}

    def answer(*arguments: str) -> str:
        command = [sys.executable, "-m", "sr_lab", *arguments]
        done = subprocess.run(
            command, cwd=elsewhere, env=environment, capture_output=True, text=True, check=True
        )
        return done.stdout

    where = [sys.executable, "-c", "import sr_lab; print(sr_lab.__file__)"]
    found = subprocess.run(where, cwd=elsewhere, env=environment, capture_output=True, text=True, check=True)
    assert str(site) in found.stdout
    assert "_target_: sr_lab.models.osffnet.OSFFNet" in answer("--cfg", "job")
    assert "536.5" in answer("task=complexity", "model=osffnet", "scale=4")
    script = [sys.executable, str(site / "bin" / "sr-lab"), "model=imfm", "--help"]
    said = subprocess.run(script, cwd=elsewhere, env=environment, capture_output=True, text=True, check=True)
    assert "Class sr_lab.models.imfm.IMFM" in said.stdout
