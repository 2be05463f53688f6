"""fixtures/export/task_metrics.py: distances in terms of the model's task."""

from __future__ import annotations

import numpy as np
import pytest

from fixtures.export.accuracy import FLOORS
from fixtures.export.task_metrics import TASK_METRICS, depth_rank_distance, flow_end_point_error_px


def test_end_point_error_is_the_mean_length_of_differences() -> None:
    truth = np.zeros((1, 2, 1, 2))
    output = truth.copy()
    output[0, :, 0, 0] = 3, 4
    assert flow_end_point_error_px(output, truth) == 2.5
    assert flow_end_point_error_px(truth, truth) == 0


def test_rank_distance_depends_on_order_alone() -> None:
    truth = np.random.default_rng(0).normal(size=(1, 20, 30))
    assert depth_rank_distance(truth, truth) == pytest.approx(0, abs=1e-12)
    assert depth_rank_distance(np.exp(3 * truth), truth) == pytest.approx(0, abs=1e-12)
    assert depth_rank_distance(-truth, truth) == pytest.approx(2)
    other = np.random.default_rng(1).normal(size=truth.shape)
    assert depth_rank_distance(other, truth) == pytest.approx(1, abs=0.1)


def test_two_constants_have_the_same_order() -> None:
    flat, steep = np.full((1, 2, 2), 7.0), np.arange(4.0).reshape(1, 2, 2)
    assert depth_rank_distance(flat, flat + 1) == 0
    assert depth_rank_distance(flat, steep) == depth_rank_distance(steep, flat) == 1


def test_every_precision_class_has_floors() -> None:
    for metric in TASK_METRICS.values():
        assert metric.floors.keys() == FLOORS.keys()


@pytest.mark.parametrize("decimals", [1, 8], ids=["many equal pixels", "few"])
def test_depth_is_compared_by_the_ranks_of_spearman(decimals: int) -> None:
    from scipy import stats  # noqa: PLC0415  takes a second to import

    generator = np.random.default_rng(0)
    truth = generator.normal(size=(1, 20, 30)).round(decimals)
    output = (truth + generator.normal(size=truth.shape) / 10).round(decimals)
    expected = 1 - stats.spearmanr(output.ravel(), truth.ravel()).statistic
    assert depth_rank_distance(output, truth) == pytest.approx(expected)
