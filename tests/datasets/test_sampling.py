import numpy as np

from sr_lab.datasets.sampling import draw, permutation, random_bits

SIZES = {"heights": np.full(5, 100), "widths": np.full(5, 200), "patch_size": 48, "order": permutation}


def test_random_bits_come_from_splitmix64():
    # For seed 0 and stream 0 these are the first outputs of the published generator with seed 0.
    bits = random_bits(0, 0, np.arange(3, dtype=np.uint64))
    assert [hex(value) for value in bits.tolist()] == [
        "0xe220a8397b1dcdaf",
        "0x6e789e6aa1b965f4",
        "0x6c45d188009454f",
    ]


def test_the_stream_is_the_same_on_every_platform():
    # Values from this code; if they change, every run sees different samples than before.
    drawn = draw(range(6), seed=0, **SIZES)
    assert drawn.image.tolist() == [3, 0, 1, 2, 4, 4]
    assert drawn.top.tolist() == [39, 19, 23, 50, 10, 31]
    assert drawn.left.tolist() == [38, 136, 57, 114, 82, 139]
    assert drawn.dihedral.tolist() == [6, 3, 3, 6, 4, 5]
    late = draw([2**40 + 3], seed=-1, **SIZES)
    assert [int(values[0]) for values in late] == [0, 25, 135, 4]


def test_every_pass_uses_each_image_once():
    images = draw(range(15), seed=7, **SIZES).image.reshape(3, 5)
    assert np.sort(images).tolist() == [[0, 1, 2, 3, 4]] * 3
    orders = [permutation(7, number, 50).tolist() for number in range(3)]
    assert orders[0] != orders[1] != orders[2]


def test_a_sample_does_not_depend_on_its_batch():
    together = draw(range(23), seed=1, **SIZES)
    backwards = draw(range(22, -1, -1), seed=1, **SIZES)
    for values, reverse in zip(together, backwards, strict=True):
        assert values.tolist() == reverse[::-1].tolist()


def test_different_seeds_give_different_draws():
    one, other = (draw(range(50), seed=seed, **SIZES) for seed in (0, 1))
    for values, others in zip(one, other, strict=True):
        assert (values != others).any()


def test_draws_are_uniform():
    drawn = draw(range(40_000), seed=3, **SIZES | {"heights": np.full(500, 55), "widths": np.full(500, 55)})
    for values in drawn[1:]:
        counts = np.bincount(values)
        assert len(counts) == 8  # 55 - 48 + 1 positions, 8 symmetries
        assert ((counts - 5000) ** 2 / 5000).sum() < 24.3  # chi-square, 7 degrees of freedom, p = 0.001


def test_draws_are_independent():
    sizes = SIZES | {"heights": np.full(800, 1048), "widths": np.full(800, 1048)}
    drawn = draw(range(20_000), seed=0, **sizes)
    assert np.abs(np.corrcoef(np.stack(drawn)) - np.eye(4)).max() < 0.03


def test_patches_stay_inside_images_of_any_size():
    heights, widths = np.array([48, 60, 2000]), np.array([50, 48, 1000])
    drawn = draw(range(3000), seed=0, **SIZES | {"heights": heights, "widths": widths})
    assert (drawn.top >= 0).all()
    assert (drawn.top + 48 <= heights[drawn.image]).all()
    assert (drawn.left + 48 <= widths[drawn.image]).all()
    assert drawn.top.max() > 1900
