"""A run goes on from the rows of another session only where both were measured under the same conditions."""

from __future__ import annotations

from typing import Any

import pytest

from fixtures.records import Summary
from fixtures.results.compatibility import differences
from fixtures.spec import Variant

VARIANT = Variant(name="m", family="midas", model="MiDaS_small", height=64, width=64, dtype="fp16")
STORED = VARIANT.model_dump(mode="json")
# As version 0.1 wrote it.
OLDER = {"precision" if key == "dtype" else key: value for key, value in STORED.items()}


def summary(variant: object) -> Summary:
    return Summary(run_id="r", complete=False, cases=(), table={}, run={"variants": {"m": variant}})


@pytest.mark.parametrize(
    ("variant", "same"),
    [
        (STORED, True),
        (OLDER, True),
        (STORED | {"dtype": "fp32"}, False),
        ({key: value for key, value in STORED.items() if value is not None}, True),
        (OLDER | {"precision": None}, False),
        (STORED | {"height": 96}, False),
        ("damaged", False),
    ],
)
def test_stored_variant_with_precision_is_the_same_as_one_with_dtype(variant: object, same: bool) -> None:
    found = list(differences({}, {"variants": {"m": STORED}}, summary(variant)))
    assert [difference.what for difference in found] == ([] if same else ["variant=m changed"])


def test_dtype_of_a_stored_run_is_compared_with_that_of_the_run_that_goes_on() -> None:
    run: dict[str, Any] = {"variants": {"m": OLDER}}
    assert list(differences({}, run, summary(STORED))) == []


@pytest.mark.parametrize(
    ("then", "now", "says"),
    [
        ({}, {"onnx_graph": "portable"}, []),
        ({}, {"onnx_graph": "contrib"}, [("onnx_graph=contrib", "portable")]),
        ({"onnx_graph": "contrib"}, {"onnx_graph": "cuda"}, [("onnx_graph=cuda", "contrib")]),
        ({}, {"serving": {"protocol": "http"}}, []),
        ({"target": {"triton": "26.03"}}, {"target": {"triton": "26.05"}}, [("target=changed", "the same spec")]),
        (
            {"serving": {"protocol": "http"}},
            {"serving": {"protocol": "grpc"}},
            [("serving=changed", "the same spec")],
        ),
        ({}, {"server": "a:8000"}, []),
        ({"server": "a:8000"}, {"server": None}, []),
        ({"server": "a:8000"}, {"server": "started by the run"}, [("server=started by the run", "a:8000")]),
    ],
    ids=[
        *(
            "an older run of the same",
            "an older run",
            "another graph",
            "an older run, served",
            "another release",
            "served by another way",
        ),
        *("an older run of a server", "nothing served", "another server"),
    ],
)
def test_run_of_another_spec_does_not_go_on(
    then: dict[str, Any], now: dict[str, Any], says: list[tuple[str, str]]
) -> None:
    begun = summary(STORED).model_copy(update={"run": then})
    assert [(found.what, found.rule) for found in differences({}, now, begun)] == says
