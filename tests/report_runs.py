"""Run folders of finished, failed and unfinished runs, as a training run leaves them."""

import json
from pathlib import Path

from sr_lab.reporting import published
from sr_lab.reporting.runs import Run, read_run

FIVE = ("Set5", "Set14", "B100", "Urban100", "Manga109")
# For each metric in expected.csv, its key in metrics.json and its unit.
UNITS = {"num_params_k": ("num_params", 1e3), "multi_adds_g": ("multi_adds", 1e9)}


def values(label: str | None, psnr: float, **more: object) -> dict[str, object]:
    """Shortened content of ``metrics.json`` for a finished row of OSFFNet's Table 2."""
    sets = more.pop("sets", ("Set5",))
    count = more.pop("count", 8)  # number of images in each set
    found: dict[str, object] = {
        "run": f"osffnet_x4_{label}",
        "experiment": "osffnet/table2_osff",
        "model": "OSFFNet",
        "scale": 4,
        "seed": 0,
        "budget": "paper",
        "protocol": "rgb_uint8",
        "protocol_says": "rgb_uint8: as papers do.",
        "device": "CPU, 1 threads",
        "commit": "0123456789abcdef",
        "dirty": False,
        "date": "2026-01-01T00:00:00+00:00",
        "num_params": 536_500,
        "multi_adds": 29_300_000_000,
    }
    if label is not None:
        found |= {"table": {"paper": "osffnet", "name": "table2"}, "row": label}
    found |= more
    images = []
    for name in sets:
        found |= {f"test/{name}/psnr_y": psnr, f"test/{name}/ssim_y": 0.89}
        found |= {f"bicubic/{name}/psnr_y": 28.429, f"bicubic/{name}/ssim_y": 0.81114}
        images += [
            # Each image is at a different distance from the mean, so no two differences are equal.
            {"set_name": name, "image": f"{i}", "psnr_y": psnr * (1 + (i - count / 2) / 1000)}
            | {"ssim_y": 0.89, "bicubic_psnr_y": 28.0 + i / 100, "bicubic_ssim_y": 0.8}
            for i in range(count)
        ]
    return found | {"images": images}


def finished(label: str | None, psnr: float, **more: object) -> Run:
    """A finished run as it would be read from a folder."""
    held = values(label, psnr, **more)
    budget = {"budget": {"name": held["budget"]}}
    labels = () if label is None else (label,)
    name = f"{held['run']}-{held['seed']:08x}"
    return Run(Path(name), held, settings={"model": {"_target_": "OSFFNet"}} | budget, labels=labels)


def folder(root: Path, name: str, *, failed: str = "", settings: str = "", **content: object) -> Run:
    """Write a run folder to disk and read it."""
    path = root / name
    path.mkdir(parents=True)
    (path / "config.yaml").write_text(settings)
    if content:
        (path / "metrics.json").write_text(json.dumps(content))
    if failed:
        (path / "failed.txt").write_text(failed)
    return read_run(path)


def as_printed(paper: str, table: str) -> list[Run]:
    """Runs for each row and scale of a paper's table whose results equal the printed values exactly."""
    found: dict[tuple[str, int], dict[str, object]] = {}
    for figure in published.table(paper, table):
        values = found.setdefault((figure.row, figure.scale or 4), {})
        name = f"test/{figure.set_name}/{figure.metric}" if figure.set_name else f"val/{figure.metric}"
        values[name] = figure.value
        if figure.metric in UNITS:
            key, unit = UNITS[figure.metric]
            values[key] = figure.value * unit
    about = {"table": {"paper": paper, "name": table}}
    return [
        Run(Path(f"{number}"), about | {"scale": scale} | values, labels=(row,))
        for number, ((row, scale), values) in enumerate(found.items())
    ]
