from sr_lab.speed.contest import play
from sr_lab.speed.inference import contests


def test_tiles_and_folding_are_measured(tmp_path):
    # 4.3 MB are needed for the whole
    small = contests(
        tmp_path,
        tiled="ecbsr_m4c16",
        side=128,
        memory=2_000_000,
        folded=["ecbsr_m4c16"],
        folded_side=32,
        exported="ecbsr_m4c16",
        exported_side=32,
    )
    played = play(small, rounds=1)
    assert list(played) == [
        "tiling.ratio_to_whole",
        "tiling.planned",
        "fold.ecbsr_m4c16_ratio_to_unfolded",
        "backend.onnxruntime_ratio_to_eager",
        "backend.openvino_ratio_to_eager",
        "backend.eager_share_of_matmul",
        "backend.onnxruntime_share_of_matmul",
        "backend.openvino_share_of_matmul",
    ]
    assert played["tiling.planned"].median > 1
    assert all(spread.median > 0 for spread in played.values())
