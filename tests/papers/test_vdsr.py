"""VDSR (Kim et al., CVPR 2016): MATLAB arrays are converted to torch's layout."""

import pytest
import torch

from sr_lab.models.vdsr import VDSR
from sr_lab.ops.renaming import official_names


@pytest.mark.parametrize("first_axes", [(3, 3, 1, 4), (3, 3, 4)], ids=["whole", "squeezed"])
def test_matlabs_axes_are_reordered_for_torch(first_axes):
    state = {"weight.0": torch.rand(first_axes), "weight.1": torch.rand(3, 3, 4, 4)}
    state |= {"weight.2": torch.rand(3, 3, 4), "bias.0": torch.rand(4, 1), "bias.1": torch.rand(4, 1)}
    state |= {"bias.2": torch.rand(1, 1)}
    net = VDSR(scale=2, num_feat=4, num_block=1)
    net.load_state_dict(official_names(net)[0].to_ours(state, net), strict=True)
    inner, last = net.body[0][0].weight, net.tail.weight
    assert inner[0, 1, 2, 0] == state["weight.1"][2, 0, 1, 0]
    assert last[0, 3, 1, 2] == state["weight.2"][1, 2, 3]
