"""Global-guided attention strategy (GGAS; "Two Strategies for Lightweight Image SR", Sec. 2.2)."""

from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from sr_lab.layers.norm import is_batch_norm
from sr_lab.strategies.host import attach, body_of, num_feat_of


class GAB(nn.Module):
    """Global attention block (Fig. 3b): depthwise convolution, batch norm, ReLU, 1x1 convolution, sigmoid.

    One such block, with a 7x7 depthwise and a 1x1 convolution, serves the whole network.

    Args:
        num_feat: Channels of F_0 (C).
        kernel_size: K of the depthwise convolution, odd.

    Shape:
        F_0 ``(N, C, H, W)`` -> the attention map GA of the same shape, in (0, 1).
    """

    def __init__(self, num_feat: int, *, kernel_size: int = 7) -> None:
        super().__init__()
        padding = kernel_size // 2
        self.depthwise = nn.Conv2d(num_feat, num_feat, kernel_size, padding=padding, groups=num_feat)
        self.norm: nn.Module = nn.BatchNorm2d(num_feat)
        self.act = nn.ReLU(inplace=True)
        self.pointwise = nn.Conv2d(num_feat, num_feat, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Eq. 2."""
        return self.pointwise(self.act(self.norm(self.depthwise(x)))).sigmoid()

    def fold(self) -> None:
        """Merge the batch norm into the convolution, which leaves C^2 + (K^2 + 2) C parameters (Eq. 6)."""
        if is_batch_norm(self.norm):
            self.depthwise = fuse_conv_bn_eval(self.depthwise.eval(), self.norm.eval())
            self.norm = nn.Identity()


class GGAS(nn.Module):
    """Gates the output of every block of a host with one map of its shallow features (Eq. 3).

    It works through hooks, so the host's parameters keep their names. The map is computed after the
    host's head and dropped before its tail.

    Args:
        num_feat: Channels of the host's shallow features F_0.
        kernel_size: Kernel size of the attention block.

    Note:
        Inferred: the next block and every later concatenation get the gated output.
    """

    def __init__(self, num_feat: int, *, kernel_size: int = 7) -> None:
        super().__init__()
        self.gab = GAB(num_feat, kernel_size=kernel_size)
        self._attention: Tensor | None = None

    def watch(self, host: nn.Module) -> None:
        """Register the hooks as bound methods, so that a deepcopy of the host gets its own."""
        head, tail = host.get_submodule("head"), host.get_submodule("tail")
        head.register_forward_hook(self._look)
        for block in dict.fromkeys(body_of(host)):  # a block with tied weights occurs more than once
            block.register_forward_hook(self._gate)
        tail.register_forward_pre_hook(self._forget)
        # A forward pass that fails must not keep a map either: deepcopy refuses tensors with a graph.
        host.register_forward_hook(self._forget, always_call=True)

    def _look(self, head: nn.Module, inputs: tuple[Tensor, ...], shallow: Tensor) -> None:
        self._attention = self.gab(shallow)

    def _gate(self, block: nn.Module, inputs: object, output: Tensor | tuple[Tensor, ...]) -> object:
        assert self._attention is not None
        if isinstance(output, tuple):  # the features come first, then any other outputs of the block
            return (output[0] * self._attention, *output[1:])
        return output * self._attention

    def _forget(self, *_: object) -> None:
        self._attention = None


def apply(model: nn.Module, *, kernel_size: int = 7) -> nn.Module:
    """Add the strategy to a host.

    Args:
        model: A network with ``head`` (its output is F_0), ``body`` (the gated blocks) and ``tail``.
        kernel_size: Kernel size K of the attention block; the paper uses 7.

    Returns:
        The same network, with ``model.strategy.ggas``.

    Raises:
        ConfigError: If the network has no such parts, or already has the strategy.
    """
    strategy = GGAS(num_feat_of(model), kernel_size=kernel_size)
    attach(model, "ggas", strategy)
    strategy.watch(model)
    return model
