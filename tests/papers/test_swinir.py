"""SwinIR for lightweight SR (Liang et al., ICCVW 2021): windows, shifts, masks and mirrored edges."""

import pytest
import torch

from sr_lab.errors import ConfigError
from sr_lab.models.swinir_light import (
    STL,
    SwinIRLight,
    WindowAttention,
    _mirrored,
    _shift_mask,
)
from sr_lab.ops.renaming import official_names

SMALL = {"scale": 2, "num_feat": 16, "num_block": 1}


def test_edges_are_mirrored_to_fill_whole_windows():
    image = torch.arange(3.0).view(1, 1, 1, 3)
    assert _mirrored(image, 4)[0, 0].tolist() == 4 * [[0, 1, 2, 2]]
    assert _mirrored(image, 8)[0, 0, 0].tolist() == [0, 1, 2, 2, 1, 0, 0, 1]
    assert _mirrored(image[..., :1], 8).shape == (1, 1, 8, 8)
    assert torch.equal(_mirrored(torch.ones(1, 3, 8, 16), 8), torch.ones(1, 3, 8, 16))


def test_the_result_equals_the_result_for_the_mirrored_image():
    net = SwinIRLight(**SMALL).eval()
    lr = torch.rand(1, 3, 9, 14)
    larger = torch.cat((lr, lr.flip(2)), dim=2)[:, :, :16]
    larger = torch.cat((larger, larger.flip(3)), dim=3)[..., :16]
    with torch.no_grad():
        torch.testing.assert_close(net(lr), net(larger)[..., :18, :28])


def reach(layer, at, size=16):
    """Rows and columns of the input that one position in the output of a layer depends on."""
    x = torch.randn(1, size, size, 12, requires_grad=True)
    (gradient,) = torch.autograd.grad(layer(x, _shift_mask(x, 8, 4))[0, *at].square().sum(), x)
    seen = gradient[0].abs().amax(dim=-1) > 1e-12
    return seen.any(dim=1).nonzero().flatten().tolist(), seen.any(dim=0).nonzero().flatten().tolist()


@pytest.mark.parametrize(
    ("shift", "at", "rows", "columns"),
    [
        (0, (0, 9), (0, 8), (8, 16)),
        (4, (5, 11), (4, 12), (4, 12)),
        (4, (0, 0), (0, 4), (0, 4)),  # the mask excludes the opposite edge, to which it was shifted
        (4, (15, 6), (12, 16), (4, 12)),
    ],
)
def test_a_position_sees_only_its_window(shift, at, rows, columns):
    layer = STL(12, num_head=2, window_size=8, shift=shift, mlp_ratio=2.0, drop_path=0.0)
    assert reach(layer, at) == (list(range(*rows)), list(range(*columns)))


def test_the_position_bias_depends_only_on_the_offset():
    attention = WindowAttention(12, num_head=2, window_size=8)
    assert attention.position.unique().numel() == len(attention.bias_table) == 225
    position = attention.position.view(8, 8, 8, 8)  # row and column of the query, then those of the key
    assert torch.equal(position[1:, 1:, 1:, 1:], position[:-1, :-1, :-1, :-1])
    assert "position" not in attention.state_dict()


def test_attention_is_the_softmax_of_the_products_plus_the_bias():
    attention = WindowAttention(12, num_head=2, window_size=4)
    x = torch.randn(6, 16, 12)
    mask = -100.0 * (torch.rand(3, 1, 16, 16) > 0.5) * (1 - torch.eye(16))
    query, key, value = (
        part.unflatten(-1, (2, 6)).transpose(1, 2) for part in attention.qkv(x).chunk(3, dim=-1)
    )
    bias = attention.bias_table[attention.position].permute(2, 0, 1)
    logits = query @ key.transpose(-1, -2) * 6**-0.5 + bias + mask.repeat(2, 1, 1, 1)
    expected = attention.proj((logits.softmax(dim=-1) @ value).transpose(1, 2).flatten(2))
    torch.testing.assert_close(attention(x, mask), expected)


def test_training_drops_whole_residuals_and_keeps_their_mean():
    layer = STL(12, num_head=2, window_size=8, shift=0, mlp_ratio=2.0, drop_path=0.25)
    residual = torch.ones(4000, 1, 1, 2)
    dropped = layer._dropped(residual)
    assert torch.equal(dropped[..., 0], dropped[..., 1])
    assert dropped.unique().tolist() == pytest.approx([0, 4 / 3])
    assert dropped.mean().item() == pytest.approx(1, abs=0.05)
    assert torch.equal(layer.eval()._dropped(residual), residual)


@pytest.mark.parametrize(("num_feat", "num_head"), [(60, 6), (16, 4), (13, 1)])
def test_the_number_of_heads_fits_the_width(num_feat, num_head):
    net = SwinIRLight(scale=2, num_feat=num_feat, num_block=1, num_layer=1)
    assert net.body[0].layers[0].attention.num_head == num_head


@pytest.mark.parametrize("num_head", [0, 3])
def test_heads_that_do_not_divide_the_width_are_refused(num_head):
    with pytest.raises(ConfigError, match=f"got num_head={num_head}, num_feat=16"):
        SwinIRLight(**SMALL, num_head=num_head)


def test_indices_and_masks_in_an_official_file_are_dropped():
    place = "layers.0.residual_group.blocks.1."
    names = (place + "attn.relative_position_index", place + "attn_mask", place + "attn.qkv.weight")
    net = SwinIRLight(**SMALL)
    renamed = official_names(net)[0].to_ours(dict.fromkeys(names, torch.zeros(1)), net)
    assert list(renamed) == ["body.0.layers.1.attention.qkv.weight"]
