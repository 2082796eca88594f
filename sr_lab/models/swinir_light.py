"""SwinIR: Image Restoration Using Swin Transformer (Liang et al., ICCVW 2021), its lightweight SR network.

Authors' code: github.com/JingyunLiang/SwinIR (Apache-2.0).
"""

import torch
from torch import Tensor, nn

from sr_lab.errors import ConfigError
from sr_lab.layers.image import ImageRange
from sr_lab.layers.network import SRNetwork, through
from sr_lab.layers.norm import ChannelNorm
from sr_lab.layers.transformer import attend
from sr_lab.ops.renaming import Names
from sr_lab.types import UpsamplerFactory
from sr_lab.upsamplers.subpixel import SubpixelUpsampler


class SwinIRLight(SRNetwork):
    """SwinIR for lightweight SR, as in its authors' code.

    Transformers whose attention stays within windows; every second layer shifts the windows by half their
    side.

    Cost at x4: 62.7 G multiply-adds (the paper prints 49.6 G), 11.2 G of them in convolutions, 40.7 G in
    linear layers and 10.9 G in attention products.

    Args:
        scale: Upscaling factor r; the paper uses 2, 3 and 4.
        num_feat: Width of the trunk (C).
        num_block: Number of RSTBs.
        num_layer: Number of STLs in an RSTB.
        num_head: Number of attention heads; ``None`` uses the largest divisor of ``num_feat`` up to 6.
        window_size: Side of a window in LR pixels.
        mlp_ratio: Inner width of the MLPs, as a multiple of the trunk's width.
        drop_path: Probability that an image skips a residual of the last STL during training; it grows
            linearly from 0 in the first STL. ``drop_path`` is in the authors' code, but not in the paper.
        upsampler: Factory for the tail; ``None`` builds the paper's sub-pixel tail.

    Shape:
        lr ``(N, 3, H, W)`` in [0, 1] -> sr ``(N, 3, rH, rW)``, not clamped. lr is padded to whole windows
        internally, by mirroring its right and lower edges.

    Raises:
        ConfigError: If ``num_head`` does not divide ``num_feat``.

    Note:
        Everything follows the authors' code. The printed counts leave out the position biases (32.4 K). The
        authors' test script adds one more window even to an image that consists of whole windows.
    """

    multi_adds_rule = "conv"

    def __init__(
        self,
        *,
        scale: int,
        num_feat: int = 60,
        num_block: int = 4,
        num_layer: int = 6,
        num_head: int | None = None,
        window_size: int = 8,
        mlp_ratio: float = 2.0,
        drop_path: float = 0.1,
        upsampler: UpsamplerFactory | None = None,
    ) -> None:
        super().__init__(scale=scale)
        if num_head is None:
            num_head = max(heads for heads in range(1, 7) if num_feat % heads == 0)
        if num_head < 1 or num_feat % num_head != 0:
            raise ConfigError(
                f"SwinIR: num_head must divide num_feat, got num_head={num_head}, num_feat={num_feat}; "
                "change one of them"
            )
        num_layers = num_block * num_layer
        rates = [drop_path * index / max(1, num_layers - 1) for index in range(num_layers)]
        self.window_size = window_size
        self.image_range = ImageRange()
        self.head = nn.Conv2d(3, num_feat, 3, padding=1)
        self.first_norm = ChannelNorm(num_feat)
        self.body = nn.ModuleList(
            RSTB(
                num_feat,
                num_head=num_head,
                window_size=window_size,
                mlp_ratio=mlp_ratio,
                drop_paths=rates[index * num_layer : (index + 1) * num_layer],
            )
            for index in range(num_block)
        )
        self.last_norm = ChannelNorm(num_feat)
        self.last = nn.Conv2d(num_feat, num_feat, 3, padding=1)
        self.tail = (upsampler or SubpixelUpsampler)(num_feat=num_feat, num_out_ch=3, scale=scale)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, lr: Tensor) -> Tensor:
        """Upscale lr, which is first padded to whole windows by mirroring."""
        height, width = lr.shape[-2:]
        shallow = self.head(self.image_range(_mirrored(lr, self.window_size)))  # (N, C, H, W)
        feat = through(self.body, self.first_norm(shallow))
        deep = self.last(self.last_norm(feat)) + shallow
        sr: Tensor = self.image_range.restore(self.tail(deep))  # (N, 3, rH, rW)
        return sr[..., : self.scale * height, : self.scale * width]


def _mirrored(image: Tensor, multiple: int) -> Tensor:
    """Pad an image by mirroring until its height and width are multiples of ``multiple``."""
    for dim in (-2, -1):
        length = image.shape[dim]
        place = torch.arange(length + -length % multiple, device=image.device) % (2 * length)
        image = image.index_select(dim, torch.minimum(place, 2 * length - 1 - place))
    return image


class RSTB(nn.Module):
    """Residual Swin transformer block: STLs, then a 3x3 convolution, within one residual.

    Args:
        num_feat: Input and output channels (C).
        num_head, window_size, mlp_ratio: See ``SwinIRLight``.
        drop_paths: ``drop_path`` of each STL.

    Shape:
        ``(N, C, H, W)`` -> the same shape; H and W must be multiples of ``window_size``.
    """

    def __init__(
        self, num_feat: int, *, num_head: int, window_size: int, mlp_ratio: float, drop_paths: list[float]
    ) -> None:
        super().__init__()
        self.window_size = window_size
        self.shift = window_size // 2
        self.layers = nn.ModuleList(
            STL(
                num_feat,
                num_head=num_head,
                window_size=window_size,
                shift=index % 2 * self.shift,
                mlp_ratio=mlp_ratio,
                drop_path=drop_path,
            )
            for index, drop_path in enumerate(drop_paths)
        )
        self.conv = nn.Conv2d(num_feat, num_feat, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Run the layers and add the input."""
        tokens = x.permute(0, 2, 3, 1)  # (N, H, W, C)
        mask = _shift_mask(tokens, self.window_size, self.shift)
        for layer in self.layers:
            tokens = layer(tokens, mask)
        return x + self.conv(tokens.permute(0, 3, 1, 2))


def _windows(tokens: Tensor, size: int) -> Tensor:
    """``(N, H, W, C)`` -> ``(N * windows, size * size, C)``."""
    batch, height, width, channels = tokens.shape
    grid = tokens.reshape(batch, height // size, size, width // size, size, channels)
    return grid.transpose(2, 3).reshape(-1, size * size, channels)


def _shift_mask(tokens: Tensor, window_size: int, shift: int) -> Tensor:
    """Mask that separates positions in a shifted window that are not adjacent in the image.

    Args:
        tokens: ``(N, H, W, C)``.
        window_size: Side of a window.
        shift: Offset of the windows, in pixels.

    Returns:
        ``(windows, 1, L, L)`` with values 0 and -100, where L is the number of positions in a window.
    """
    height, width = tokens.shape[1:3]
    rows = torch.arange(height, device=tokens.device) >= height - shift
    columns = torch.arange(width, device=tokens.device) >= width - shift
    region = _windows((2 * rows[:, None] + columns)[None, :, :, None], window_size)  # (windows, L, 1)
    return (region != region.transpose(1, 2)).unsqueeze(1) * -100.0


class STL(nn.Module):
    """Swin transformer layer (Liu et al., ICCV 2021): attention within windows, then an MLP.

    Args:
        num_feat: Input and output channels (C).
        num_head, window_size, mlp_ratio: See ``SwinIRLight``.
        shift: Offset of the windows, in pixels.
        drop_path: Probability that training skips a residual for an image.

    Shape:
        ``(N, H, W, C)`` and the shifted windows' mask ``(windows, 1, L, L)`` -> ``(N, H, W, C)``.
    """

    def __init__(
        self,
        num_feat: int,
        *,
        num_head: int,
        window_size: int,
        shift: int,
        mlp_ratio: float,
        drop_path: float,
    ) -> None:
        super().__init__()
        num_hidden = int(num_feat * mlp_ratio)
        self.window_size = window_size
        self.shift = shift
        self.drop_path = drop_path
        self.norm1 = nn.LayerNorm(num_feat)
        self.attention = WindowAttention(num_feat, num_head=num_head, window_size=window_size)
        self.norm2 = nn.LayerNorm(num_feat)
        self.mlp = nn.Sequential(nn.Linear(num_feat, num_hidden), nn.GELU(), nn.Linear(num_hidden, num_feat))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Add the two residuals, attention and MLP."""
        x = x + self._dropped(self._attended(self.norm1(x), mask))
        return x + self._dropped(self.mlp(self.norm2(x)))

    def _attended(self, x: Tensor, mask: Tensor) -> Tensor:
        """Attend within the windows of an image; shifted windows are windows of the rolled image."""
        batch, height, width, channels = x.shape
        size, shift = self.window_size, self.shift
        windows = _windows(x.roll((-shift, -shift), (1, 2)) if shift else x, size)
        windows = self.attention(windows, mask if shift else None)  # (N * windows, L, C)
        grid = windows.reshape(batch, height // size, width // size, size, size, channels)
        x = grid.transpose(2, 3).reshape(x.shape)
        return x.roll((shift, shift), (1, 2)) if shift else x

    def _dropped(self, residual: Tensor) -> Tensor:
        """Stochastic depth: drop an image's residual, or scale it so that the mean stays the same."""
        if not self.training or self.drop_path == 0:
            return residual
        keep = 1 - self.drop_path
        return residual * residual.new_empty(len(residual), 1, 1, 1).bernoulli_(keep).div_(keep)


class WindowAttention(nn.Module):
    """Multi-head attention within windows, with a learned bias for each relative position.

    Args:
        num_feat: Input and output channels (C).
        num_head: Number of heads, a divisor of C.
        window_size: Side of a window; L is its square.

    Shape:
        ``(N * windows, L, C)`` and, if any, the mask ``(windows, 1, L, L)`` -> ``(N * windows, L, C)``.
    """

    position: Tensor

    def __init__(self, num_feat: int, *, num_head: int, window_size: int) -> None:
        super().__init__()
        self.num_head = num_head
        span = 2 * window_size - 1  # relative positions along one axis
        self.bias_table = nn.Parameter(torch.empty(span**2, num_head))
        nn.init.trunc_normal_(self.bias_table, std=0.02)
        axis = torch.arange(window_size)
        place = torch.cartesian_prod(axis, axis)  # (L, 2), row and column
        offset = place[:, None] - place[None, :] + window_size - 1  # (L, L, 2), from 0 up
        self.register_buffer("position", span * offset[..., 0] + offset[..., 1], persistent=False)
        self.qkv = nn.Linear(num_feat, 3 * num_feat)
        self.proj = nn.Linear(num_feat, num_feat)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Attend within each window, with every head."""
        qkv = self.qkv(x).reshape(*x.shape[:2], 3, self.num_head, -1).permute(2, 0, 3, 1, 4)
        query, key, value = qkv.unbind()  # (N * windows, heads, L, channels) each
        bias = self.bias_table[self.position].permute(2, 0, 1).unsqueeze(0)  # (1, heads, L, L)
        if mask is not None:
            bias = (bias + mask).repeat(x.shape[0] // mask.shape[0], 1, 1, 1)  # (N * windows, heads, L, L)
        attended = attend(query, key, value, scale=query.shape[-1] ** -0.5, bias=bias)
        return self.proj(attended.transpose(1, 2).flatten(2))


# The authors' files store buffers that are computed here when needed.
_STL_NAMES: Names = {
    "norm{k}": "norm{k}",
    "attn.relative_position_bias_table": "attention.bias_table",
    "attn.relative_position_index": None,
    "attn": "attention",
    "attn_mask": None,
    "mlp.fc1": "mlp.0",
    "mlp.fc2": "mlp.2",
}

# Weight names in the authors' code.
OFFICIAL_NAMES: Names = {
    "conv_first": "head",
    "patch_embed.norm": "first_norm",
    "layers.{i}.residual_group.blocks.{j}": ("body.{i}.layers.{j}", _STL_NAMES),
    "layers.{i}.conv": "body.{i}.conv",
    "norm": "last_norm",
    "conv_after_body": "last",
    "upsample": "tail",
}
