"""A run beside what its paper prints of it, as the flat names that dashboards have columns for."""

from sr_lab.reporting import published
from sr_lab.reporting.experiment import measured
from sr_lab.reporting.runs import Run


def beside_paper(run: Run) -> dict[str, float]:
    """``paper/Set5/psnr_y``, ``ours/Set5/psnr_y``, ``difference/Set5/psnr_y`` (ours minus the paper's), ...

    Args:
        run: Finished or not; of an unfinished one only what the paper prints is known.

    Returns:
        Names and units as in expected.csv; nothing of a run that is no row of a paper's table.
    """
    found: dict[str, float] = {}
    for figure in published.table(*run.table) if run.table is not None and run.labels else ():
        if figure.row != run.labels[0] or figure.scale not in (None, run.scale):
            continue
        name = f"{figure.set_name}/{figure.metric}" if figure.set_name else figure.metric
        found[f"paper/{name}"] = figure.value
        ours = measured(run, (figure.set_name, figure.metric))
        if ours is not None:
            found |= {f"ours/{name}": ours, f"difference/{name}": ours - figure.value}
    return found
