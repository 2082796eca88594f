import pickle

import pytest
import torch

from sr_lab.errors import DataError
from sr_lab.metrics.image_quality import MeanOverImages


def test_mean_counts_every_image_the_same():
    metric = MeanOverImages()
    metric.update(torch.tensor([30.0, 32.0, 34.0]))
    metric.update(torch.tensor([20.0]))
    assert metric.compute().item() == 29.0
    assert metric.count.item() == 4


def test_ranks_with_unequal_shares_give_the_mean_of_one_process():
    values = torch.tensor([33.1, 28.7, 30.2, 25.9, 31.4], dtype=torch.float64)
    ranks = [MeanOverImages() for _ in range(2)]
    for rank, metric in enumerate(ranks):
        metric.update(values[rank::2])
    merged = MeanOverImages()
    merged.update(values[:0])
    for metric in ranks:
        merged.merge_state(metric)
    assert merged.compute().item() == pytest.approx(values.mean().item(), abs=1e-12)
    assert merged.count.item() == 5


def test_both_states_are_summed_over_ranks():
    assert {name: fx.__name__ for name, fx in MeanOverImages()._reductions.items()} == {
        "total": "dim_zero_sum",
        "count": "dim_zero_sum",
    }


def test_many_images_lose_no_digits():
    metric = MeanOverImages()
    for _ in range(1000):
        metric.update(torch.full((100,), 0.1, dtype=torch.float64))
    assert metric.compute().item() == pytest.approx(0.1, abs=1e-13)


def test_a_reset_forgets():
    metric = MeanOverImages()
    metric.update(torch.tensor([1.0]))
    metric.reset()
    metric.update(torch.tensor([3.0]))
    assert metric.compute().item() == 3.0


def test_pickling_keeps_the_state():
    metric = MeanOverImages()
    metric.update(torch.tensor([1.0, 2.0]))
    assert pickle.loads(pickle.dumps(metric)).compute().item() == 1.5


def test_an_empty_set_is_an_error():
    metric = MeanOverImages()
    metric.update(torch.zeros(0))
    with pytest.raises(DataError, match="no image was measured"):
        metric.compute()
