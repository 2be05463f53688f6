"""fixtures/export/waterfall.py: which hop adds how much error."""

from __future__ import annotations

import pytest

from fixtures.export.waterfall import largest_hop, waterfall
from fixtures.records import Hop
from meta_tests.test_export_parity import array


def test_waterfall_has_the_error_and_what_each_hop_adds() -> None:
    truth = [array(3), array(4)]
    hops = waterfall(
        [("truth", truth), ("torch", [array(3.5), array(4)]), ("file", [array(3.5), array(4.5)]), ("gpu", truth)]
    )
    assert [hop.hop for hop in hops] == ["truth", "torch", "file", "gpu"]
    assert [hop.error for hop in hops] == pytest.approx([0, 0.1, 0.1 * 2**0.5, 0])
    assert [hop.added for hop in hops] == pytest.approx([0, 0.1, 0.1, 0.1 * 2**0.5])
    assert largest_hop(hops) == hops[3]


def test_waterfall_of_a_truth_of_zeros_is_absolute() -> None:
    hops = waterfall([("truth", [array(0)]), ("file", [array(0.5)])])
    assert hops[1] == Hop(hop="file", error=0.5, added=0.5)
