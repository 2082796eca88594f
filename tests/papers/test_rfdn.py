"""RFDN (Liu et al., ECCVW 2020): the block in the paper and the block in its authors' code."""

import pytest
import torch

from sr_lab.errors import ConfigError
from sr_lab.layers.distillation import RFDB
from sr_lab.models.rfdn import RFDN


def test_the_block_in_the_paper_adds_its_input():
    block, plain = RFDB(16, attention="cca", residual=True), RFDB(16, attention="cca")
    plain.load_state_dict(block.state_dict())
    x = torch.randn(1, 16, 9, 7)
    torch.testing.assert_close(block(x), plain(x) + x)


def test_channel_attention_accepts_any_size_and_spatial_attention_needs_15_pixels():
    lr = torch.rand(1, 3, 5, 4)
    assert RFDN(scale=2, num_feat=16, num_block=1)(lr).shape == (1, 3, 10, 8)
    with pytest.raises(ConfigError, match="at least 15x15 pixels, got 4x5"):
        RFDN(scale=2, num_feat=16, num_block=1, attention="esa")(lr)


def test_an_unknown_attention_is_refused():
    with pytest.raises(ConfigError, match="got attention=sca; allowed: esa, cca"):
        RFDN(scale=2, attention="sca")
