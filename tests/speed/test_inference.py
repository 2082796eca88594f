from sr_lab.speed import inference
from sr_lab.speed.benchmark import measure


def test_tiles_folding_and_backends_are_measured(tmp_path, monkeypatch):
    small = {
        "TILED": "ecbsr_m4c16",
        "TILED_SIDE": 128,
        "TILE_MEMORY": 2_000_000,  # the whole image needs 4.3 MB
        "FOLDED": ["ecbsr_m4c16"],
        "FOLDED_SIDE": 32,
        "EXPORTED": "ecbsr_m4c16",
        "EXPORTED_SIDE": 32,
        "_MATRIX_SIDE": 64,
    }
    for name, value in small.items():
        monkeypatch.setattr(inference, name, value)
    measured = measure(inference.benchmarks(tmp_path), rounds=1)
    assert list(measured) == [
        "tiling.ratio_to_whole",
        "tiling.planned",
        "fold.ecbsr_m4c16_ratio_to_unfolded",
        "backend.onnxruntime_ratio_to_eager",
        "backend.openvino_ratio_to_eager",
        "backend.eager_share_of_matmul",
        "backend.onnxruntime_share_of_matmul",
        "backend.openvino_share_of_matmul",
    ]
    assert measured["tiling.planned"].median > 1
    assert all(spread.median > 0 for spread in measured.values())
