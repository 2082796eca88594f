from sr_lab.speed import loader
from sr_lab.speed.benchmark import measure


def test_the_loader_is_measured_relative_to_png_files_and_memory(tmp_path, monkeypatch):
    small = {
        "SCALE": 2,
        "LR_PATCH_SIZE": 16,
        "BATCH_SIZE": 4,
        "NUM_IMAGES": 3,
        "IMAGE_SIZE": (500, 450),  # taller than a photograph, so its mirror image is appended
        "BATCHES": 3,
        "PNG_BATCHES": 1,
        "_COPIED": 2**20,
    }
    for name, value in small.items():
        monkeypatch.setattr(loader, name, value)
    measured = measure(loader.benchmarks(tmp_path), rounds=1)
    assert set(measured) == {"loader.pairs_per_s", "loader.ratio_to_png", "loader.share_of_memcpy"}
    assert all(spread.median > 0 for spread in measured.values())


def test_the_reference_returns_matching_lr_and_hr_patches(tmp_path):
    reference = loader.SubImages(tmp_path, scale=2, lr_patch_size=24, count=2)
    for sample in range(4):
        pair = reference[sample]
        assert pair["lr"].shape == (3, 24, 24)
        assert pair["hr"].shape == (3, 48, 48)
        coarse = pair["hr"].float().unfold(1, 2, 2).unfold(2, 2, 2).mean((-1, -2))
        assert (
            coarse - pair["lr"].float()
        ).abs().mean() < 8  # grey levels; patches from different positions differ by about 50
