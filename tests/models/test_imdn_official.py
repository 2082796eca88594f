import numpy as np
import pytest
import torch

from sr_lab.models.imdn import IMDN, from_official


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_official_checkpoint_gives_the_official_output(weights_dir, scale):
    folder = weights_dir / "IMDN"
    state = torch.load(folder / f"IMDN_x{scale}.pth", map_location="cpu", weights_only=True)
    state = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    net = IMDN(scale=scale).eval()
    net.load_state_dict(from_official(state, scale=scale), strict=True)
    pair = np.load(folder / f"io_IMDN_x{scale}.npz")
    with torch.no_grad():
        sr = net(torch.from_numpy(pair["input"]))
    torch.testing.assert_close(sr, torch.from_numpy(pair["output"]), atol=1e-5, rtol=0)
