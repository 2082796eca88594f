"""Experiment framework for lightweight single-image super-resolution.

model = sr_lab.load("IMDN_x4.pth")
sr_lab.upscale("photo.png", model).save("large.png")
sr_lab.measure("theirs", "data/benchmarks/Set5/HR", scale=4).mean["rgb_uint8"].psnr
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sr_lab.api import compose, export, load, measure, upscale
    from sr_lab.hub import HubNetwork

__version__ = "0.1.0"
__all__ = ["HubNetwork", "__version__", "compose", "export", "load", "measure", "upscale"]


def __getattr__(name: str) -> object:
    """Import torch on the first use of the interface, not when the package is imported."""
    if name == "HubNetwork":
        from sr_lab import hub

        return hub.HubNetwork
    if name in __all__:
        from sr_lab import api

        return getattr(api, name)
    raise AttributeError(f"module 'sr_lab' has no attribute '{name}'")


def command() -> None:
    """The installed command ``sr-lab``, the same as ``python -m sr_lab``.

    The code runs as the module ``__main__``, which a run needs to start its other processes.
    """
    import os
    import runpy
    import sys

    if not sys.flags.safe_path:
        sys.path[0] = os.getcwd()  # as ``python -m`` does, so that your own package there is found
    runpy.run_module("sr_lab", run_name="__main__", alter_sys=True)
