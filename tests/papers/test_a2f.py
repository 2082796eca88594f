"""A2F (Wang et al., ACCV 2020): which features each block sees."""

from sr_lab.models.a2f import A2F


def test_every_block_sees_the_features_of_all_before_it():
    net = A2F(scale=2, num_feat=16, num_block=3)
    assert [block.fusion.in_channels for block in net.body] == [16, 32, 48]
    assert not any("parametrizations" in name for name, _ in net.body[0].fusion.named_parameters())
