"""The parts that the OSFF architecture (OSFFNet, Wang and Zhang, AAAI 2024) adds to a network."""

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

from sr_lab.errors import ConfigError
from sr_lab.layers.attention import CCA
from sr_lab.layers.bsconv import ERB
from sr_lab.layers.network import check_choice


class DRF(nn.Module):
    """Dynamic receptive field module (OSFFNet, Eq. 6): ``ERB(x) * CCA(x)``.

    Args:
        num_feat: Input and output channels (C).
        kernel_size: Kernel size d of the ERB.
        join: ``product`` multiplies the ERB's output by CCA's output, which is Eq. 6 taken literally;
            ``gate`` multiplies the ERB's output by CCA's channel weights alone. The cost is the same.

    Shape:
        ``(N, C, H, W)`` -> the same shape.

    Raises:
        ConfigError: If ``join`` is unknown.

    Note:
        Inferred: Eq. 6 is meant literally, since H_CCA gives a feature map in Eq. 9 too.
    """

    def __init__(self, num_feat: int, kernel_size: int, *, join: Literal["product", "gate"]) -> None:
        super().__init__()
        check_choice("OSFF", "drf", join, "product", "gate")
        self.erb = ERB(num_feat, kernel_size)
        self.cca = CCA(num_feat)
        self.join = join

    def forward(self, x: Tensor) -> Tensor:
        """Eq. 6."""
        attention = self.cca(x) if self.join == "product" else self.cca.weights(x)
        return self.erb(x) * attention


def make_drfs(
    num_feat: int,
    num_block: int,
    kernel_sizes: Sequence[int],
    *,
    join: Literal["product", "gate"],
    mfdf: bool,
) -> nn.ModuleList:
    """Build a DRF for each block of a network (MFDF).

    Args:
        num_feat: Channels of the blocks (C).
        num_block: Number of blocks.
        kernel_sizes: Kernel size of each block's DRF (D_s), odd; the first ``num_block`` are used.
        join: How a DRF combines its two branches, see ``DRF``.
        mfdf: Whether to build DRFs; if off, the features of each block stay unchanged.

    Returns:
        ``num_block`` DRFs, or the same number of identities.

    Raises:
        ConfigError: If a kernel size is even or missing, or ``join`` is unknown or set without DRFs.
    """
    if not mfdf:
        if join != "product":
            raise ConfigError(
                f"OSFF: with mfdf=false there are no DRFs, got drf={join}; leave drf out or set mfdf=true"
            )
        return nn.ModuleList(nn.Identity() for _ in range(num_block))
    if not 1 <= num_block <= len(kernel_sizes) or any(size % 2 == 0 for size in kernel_sizes):
        raise ConfigError(
            f"OSFF: needs an odd DRF kernel size for each of num_block={num_block} stages, "
            f"got drf_kernels={tuple(kernel_sizes)}"
        )
    return nn.ModuleList(DRF(num_feat, size, join=join) for size in kernel_sizes[:num_block])
