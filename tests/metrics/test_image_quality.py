import pickle
from collections.abc import Sequence

import pytest
import torch

from sr_lab.errors import DataError
from sr_lab.metrics.image_quality import MeanOverImages


def of(values: Sequence[float], *, share: slice = slice(None)) -> MeanOverImages:
    """The metric of a set whose images have these values, updated with the given share of them."""
    metric = MeanOverImages(len(values))
    for place in range(len(values))[share]:
        metric.update(torch.tensor([values[place]]), place)
    return metric


def test_every_image_has_the_same_weight_in_the_mean():
    assert of([30.0, 32.0, 34.0, 20.0]).compute().item() == 29.0


@pytest.mark.parametrize("world", [2, 3, 7])
def test_several_ranks_give_the_mean_of_one_process_bit_for_bit(world):
    values = (torch.rand(5, dtype=torch.float64) * 40).tolist()
    merged = of(values, share=slice(0, None, world))
    for rank in range(1, world):
        merged.merge_state(of(values, share=slice(rank, None, world)))
    assert merged.compute().item() == of(values).compute().item()


def test_both_metric_states_are_summed_over_ranks():
    assert {name: fx.__name__ for name, fx in MeanOverImages(1)._reductions.items()} == {
        "values": "dim_zero_sum",
        "measured": "dim_zero_sum",
    }


def test_the_mean_of_many_images_loses_no_digits():
    assert of([0.1] * 1000).compute().item() == pytest.approx(torch.tensor(0.1).item(), abs=1e-15)


def test_an_image_reproduced_without_error_makes_the_mean_infinite():
    assert of([30.0, float("inf")]).compute().item() == float("inf")


def test_a_reset_forgets_all_images():
    metric = of([1.0])
    metric.reset()
    metric.update(torch.tensor([3.0]), 0)
    assert metric.compute().item() == 3.0


def test_pickling_keeps_the_state():
    assert pickle.loads(pickle.dumps(of([1.0, 2.0]))).compute().item() == 1.5


def test_an_empty_set_is_an_error():
    metric = MeanOverImages(0)
    with pytest.warns(UserWarning, match="called before"), pytest.raises(DataError, match="no image was"):
        metric.compute()


def test_an_image_that_was_skipped_or_counted_twice_is_an_error():
    metric = of([1.0, 2.0, 3.0], share=slice(2))
    metric.update(torch.tensor([1.0]), 0)
    with pytest.raises(DataError, match="images not measured: 1 of 3; images measured more than once: 1"):
        metric.compute()
