"""``task=complexity``: parameters, multiply-adds at a 1280x720 output, and what they cost a CPU."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn
from torch.utils.benchmark import Timer

from sr_lab.config import ComplexityConfig, to_yaml
from sr_lab.reporting.runs import read_run
from sr_lab.reporting.table import print_table
from sr_lab.run_folder import RunFolder
from sr_lab.tasks import common

_MEGAPIXELS = 640 * 360 / 1e6  # a quarter of 1280x720, so that the largest network takes seconds


def cpu_seconds(network: nn.Module, scale: int) -> float:
    """Median time of an eager float32 forward pass on the CPU, in seconds per megapixel of output.

    Compare figures of one run of this task only: they depend on the machine, its threads and its load.
    """
    channels = 1 if getattr(network, "colour", "rgb") == "y" else 3
    lr = torch.rand(1, channels, 360 // scale, 640 // scale)
    with torch.inference_mode():
        timer = Timer("network(lr)", globals={"network": network.cpu().eval(), "lr": lr})
        return timer.blocked_autorange(min_run_time=1.0).median / _MEGAPIXELS


def run(config: ComplexityConfig, folder: Path, overrides: Sequence[str]) -> None:
    """Count, and write the counts where a table finds them."""
    run_folder = RunFolder(folder)
    with run_folder.attempt():
        run_folder.write_config(to_yaml(config))
        network = common.build_network(config)
        run_folder.write_metrics(
            common.provenance(config, folder)
            | common.cost(network, config.scale)
            | {"cpu_s_per_megapixel": cpu_seconds(network, config.scale)}
        )
    if not common.in_multirun():
        print_table([read_run(folder)])
