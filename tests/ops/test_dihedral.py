import pytest
import torch

from sr_lab.ops.dihedral import dihedral


def test_the_codes_are_the_eight_symmetries():
    image = torch.arange(9).view(1, 1, 3, 3)
    results = [dihedral(image, torch.tensor([code])) for code in range(8)]
    assert torch.equal(results[0], image)
    assert torch.equal(results[1], image.flip(-1))
    assert torch.equal(results[2], image.flip(-2))
    assert torch.equal(results[4], image.transpose(-1, -2))
    assert torch.equal(results[7], image.flip(-1).flip(-2).transpose(-1, -2))
    assert len({tuple(result.flatten().tolist()) for result in results}) == 8


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64])
def test_every_image_is_transformed_by_its_own_code(dtype):
    images = torch.randint(0, 256, (8, 3, 4, 4), dtype=torch.uint8)
    codes = torch.arange(8).flip(0).to(dtype)
    alone = [dihedral(images[i : i + 1], codes[i : i + 1]) for i in range(8)]
    assert torch.equal(dihedral(images, codes), torch.cat(alone))


@pytest.mark.parametrize("code", range(8))
def test_lr_and_hr_images_stay_aligned(code):
    hr = torch.rand(1, 3, 12, 12)
    lr = torch.nn.functional.avg_pool2d(hr, 3)
    codes = torch.tensor([code])
    torch.testing.assert_close(torch.nn.functional.avg_pool2d(dihedral(hr, codes), 3), dihedral(lr, codes))


@pytest.mark.parametrize(("images", "codes"), [((2, 3, 4, 5), (2,)), ((2, 3, 4, 4), (3,)), ((3, 4, 4), (3,))])
def test_other_shapes_are_refused(images, codes):
    with pytest.raises(ValueError, match=r"dihedral: expects square images \(N, C, H, H\) and codes \(N,\)"):
        dihedral(torch.zeros(images), torch.zeros(codes, dtype=torch.long))
