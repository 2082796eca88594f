"""The transformer over 3x3 patches of ESRT, LBNet and EFRDN, and scaled dot-product attention."""

from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sr_lab.errors import ConfigError

Form: TypeAlias = Literal["esrt", "efrdn"]


def attend(query: Tensor, key: Tensor, value: Tensor, *, scale: float, bias: Tensor | None = None) -> Tensor:
    """``softmax(scale * query key^T + bias) value`` by fused kernels, which never store all weights.

    Args:
        query: ``(N, heads, L, channels)``.
        key: The same shape.
        value: The same shape.
        scale: Factor by which the products are multiplied.
        bias: Added to the products; its shape must broadcast to ``(N, heads, L, L)``.

    Returns:
        ``(N, heads, L, channels)``.
    """
    num_channels = query.shape[-1]
    if not query.is_meta:
        # Fused CUDA kernels need a multiple of 8 channels, which also makes the CPU kernels faster. Appended
        # zeros change no product, but they would be counted on the meta device, where cost is measured.
        padding = (0, -num_channels % 8)
        query, key, value = (F.pad(part, padding) for part in (query, key, value))
    if bias is not None:
        bias = bias.to(query.dtype)
    return F.scaled_dot_product_attention(query, key, value, bias, scale=scale)[..., :num_channels]


class ET(nn.Module):
    """Efficient transformer (ESRT, Lu et al., CVPRW 2022) over overlapping 3x3 patches.

    The 3x3 neighbourhood of each position is a token; the results are summed where patches overlap.

    Args:
        num_feat: Input and output channels (C).
        num_head, num_segment, reduction: See ``EMHA``.
        mlp_ratio: Inner width of the MLP, as a multiple of a token's width (9C).
        form: Form of the attention, see ``EMHA``; with ``esrt``, both layers of the MLP have biases too.
        num_repeat: How many times the tokens pass through the same weights.

    Shape:
        ``(N, C, H, W)`` -> the same shape, in the weights' dtype.

    Note:
        ESRT has a reduction of 2, an ``mlp_ratio`` of 1/4 and biases; LBNet has the same settings and three
        repeats. The defaults fit EFRDN's counts.
    """

    def __init__(
        self,
        num_feat: int,
        *,
        num_head: int = 8,
        num_segment: int = 4,
        reduction: int = 4,
        mlp_ratio: float = 1.0,
        form: Form = "efrdn",
        num_repeat: int = 1,
    ) -> None:
        super().__init__()
        num_token_ch = 9 * num_feat
        num_hidden = int(num_token_ch * mlp_ratio)
        self.num_repeat = num_repeat
        self.norm1 = nn.LayerNorm(num_token_ch)
        self.attention = EMHA(
            num_token_ch, num_head=num_head, num_segment=num_segment, reduction=reduction, form=form
        )
        self.norm2 = nn.LayerNorm(num_token_ch)
        self.mlp = nn.Sequential(
            nn.Linear(num_token_ch, num_hidden, bias=form == "esrt"),
            nn.ReLU(inplace=True),
            nn.Linear(num_hidden, num_token_ch, bias=form == "esrt"),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Unfold, apply attention and MLP, fold."""
        size = x.shape[-2:]
        tokens = F.unfold(x, 3, padding=1).transpose(1, 2)  # (N, HW, 9C)
        for _ in range(self.num_repeat):
            tokens = tokens + self.attention(self.norm1(tokens))  # Eq. 28 of EFRDN
            tokens = tokens + self.mlp(self.norm2(tokens))  # Eq. 29 of EFRDN
        # Under autocast, the sum of nine patches must be computed in the precision of the weights.
        tokens = tokens.to(self.norm1.weight.dtype)
        return F.fold(tokens.transpose(1, 2), size, 3, padding=1)  # (N, C, H, W)


class EMHA(nn.Module):
    """Efficient multi-head attention (ESRT, Lu et al., CVPRW 2022; EFRDN, Eq. 30).

    The tokens are cut into segments of equal length, of which only the last may be shorter; attention stays
    within a segment.

    Args:
        num_feat: Width of a token (D).
        num_head: Number of heads; each has ``D // (reduction * num_head)`` channels.
        num_segment: Number of segments.
        reduction: Factor by which the tokens are squeezed.
        form: With ``efrdn``, the length of a segment is rounded up, and the products are divided by the
            square root of a head's number of channels. With ``esrt``, as in the code of ESRT and LBNet, the
            length is rounded down (to at least 1), the remaining tokens form an additional segment, the
            products are divided by the square root of ``D // num_head``, and the last layer has a bias.

    Shape:
        ``(N, L, D)`` -> the same shape.

    Raises:
        ConfigError: If no channel is left for each head.

    Note:
        ESRT's code has 4 segments and LBNet's has 16.
    """

    def __init__(
        self, num_feat: int, *, num_head: int, num_segment: int, reduction: int, form: Form = "efrdn"
    ) -> None:
        super().__init__()
        self.num_head = num_head
        self.num_segment = num_segment
        self.round_up = form == "efrdn"
        self.num_head_ch = num_feat // (reduction * num_head)
        if self.num_head_ch < 1:
            raise ConfigError(
                f"EMHA: num_head={num_head} at attention_reduction={reduction} leaves no channel per head "
                f"(num_feat={num_feat}); lower one of them"
            )
        self.scale = (num_feat // num_head if form == "esrt" else self.num_head_ch) ** -0.5
        num_inner = num_head * self.num_head_ch
        self.reduce = nn.Linear(num_feat, num_inner, bias=False)
        self.qkv = nn.Linear(num_inner, 3 * num_inner, bias=False)
        self.proj = nn.Linear(num_inner, num_feat, bias=form == "esrt")

    def forward(self, x: Tensor) -> Tensor:
        """Attend within each segment, with every head."""
        qkv = self.qkv(self.reduce(x))  # (N, L, 3 * heads * channels)
        num_token = x.shape[1]
        length = -(-num_token // self.num_segment) if self.round_up else num_token // self.num_segment
        length = max(1, length)
        whole = num_token - num_token % length
        segments = qkv[:, :whole].reshape(-1, length, qkv.shape[-1])  # equally long segments as one batch
        attended = self._attended(segments).reshape(x.shape[0], whole, -1)
        if whole < num_token:
            attended = torch.cat((attended, self._attended(qkv[:, whole:])), dim=1)
        return self.proj(attended)

    def _attended(self, qkv: Tensor) -> Tensor:
        """``(segments, L, 3 * heads * channels)`` -> ``(segments, L, heads * channels)``."""
        parts = qkv.reshape(*qkv.shape[:2], 3, self.num_head, self.num_head_ch).permute(2, 0, 3, 1, 4)
        query, key, value = parts.unbind()  # (segments, heads, L, channels) each
        return attend(query, key, value, scale=self.scale).transpose(1, 2).flatten(2)
