"""Write each photograph of a folder at several smaller sizes, which have more detail per pixel.

    python experiments/ledger/photographs.py data/train/CC0 photographs

Photographs from today's cameras are smooth from pixel to pixel; test images are not. The weights in the
package are trained on the photographs in three of the folders that this script writes: ``1`` (full size),
``2`` and ``3`` (half and a third of the width). ``4`` is for comparison.
"""

import argparse
from pathlib import Path

from PIL import Image

DIVISORS = (1, 2, 3, 4)


def main() -> None:
    """Write the folders."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("photographs", type=Path)
    parser.add_argument("output", type=Path)
    args = parser.parse_args()
    for divisor in DIVISORS:
        folder = args.output / str(divisor)
        folder.mkdir(parents=True, exist_ok=True)
        for path in sorted(args.photographs.iterdir()):
            with Image.open(path) as image:
                size = image.width // divisor, image.height // divisor
                image.convert("RGB").resize(size, Image.Resampling.LANCZOS).save(folder / f"{path.stem}.png")


if __name__ == "__main__":
    main()
