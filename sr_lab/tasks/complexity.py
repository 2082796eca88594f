"""``task=complexity``: parameters and multiply-adds at a 1280x720 output."""

from collections.abc import Sequence
from pathlib import Path

from sr_lab.config import ComplexityConfig, to_yaml
from sr_lab.reporting.runs import read_run
from sr_lab.reporting.table import print_table
from sr_lab.run_folder import RunFolder
from sr_lab.tasks import common


def run(config: ComplexityConfig, folder: Path, overrides: Sequence[str]) -> None:
    """Count, and write the counts where a table finds them."""
    run_folder = RunFolder(folder)
    with run_folder.attempt():
        run_folder.write_config(to_yaml(config))
        network = common.build_network(config)
        run_folder.write_metrics(common.provenance(config, folder) | common.cost(network, config.scale))
    if not common.in_multirun():
        print_table([read_run(folder)])
