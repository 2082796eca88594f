"""The eight symmetries of a square, the usual augmentation in super-resolution."""

import torch
from torch import Tensor


def dihedral(images: Tensor, codes: Tensor) -> Tensor:
    """Flip and transpose each image of a batch by its own code, without synchronising with the device.

    Args:
        images: Square images ``(N, C, H, H)`` of any dtype.
        codes: Integers ``(N,)`` in 0..7 on the same device: bit 0 flips horizontally, bit 1 flips vertically,
            and bit 2 then transposes. Use the same codes for LR and HR.

    Returns:
        A new tensor of the same shape; code 0 does not change an image.

    Raises:
        ValueError: The images are not square, or the numbers of codes and images differ.
    """
    if images.ndim != 4 or images.shape[-1] != images.shape[-2] or codes.shape != images.shape[:1]:
        raise ValueError(
            f"dihedral: expects square images (N, C, H, H) and codes (N,), "
            f"got {tuple(images.shape)} and {tuple(codes.shape)}"
        )
    codes = codes.view(-1, 1, 1, 1)
    images = torch.where((codes & 1).bool(), images.flip(-1), images)
    images = torch.where((codes & 2).bool(), images.flip(-2), images)
    return torch.where((codes & 4).bool(), images.transpose(-2, -1), images)
