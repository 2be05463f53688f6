"""fixtures.parallel.schedule: workers take cases in an order that lets all of them end together."""

from __future__ import annotations

from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fixtures.cases import cases_of
from fixtures.parallel.schedule import claim_order, longest_first
from fixtures.spec import load_spec
from meta_tests.cases import cases_of_sizes
from meta_tests.conftest import SMALL_SPEC


def test_worker_takes_its_own_variants_first_and_those_of_others_from_the_end(tmp_path: Path) -> None:
    cases = cases_of_sizes(tmp_path, [64, 96, 128], batches=2)
    workers = ("gpu0", "gpu1")
    first, second = ([f"{c.variant.name}{c.batch}" for c in claim_order(cases, name, workers)] for name in workers)
    assert first == ["c1", "c2", "a2", "a1", "b2", "b1"]
    assert second == ["b1", "b2", "a1", "a2", "c2", "c1"]
    assert [case.id for case in claim_order(cases, "gpu0", ("gpu0",))][:2] == [case.id for case in cases[4:]]
    helper = claim_order(cases[:2], "gpu1", workers)
    assert [case.batch for case in helper] == [2, 1], "a worker without a variant of its own takes the last case first"


@given(
    sizes=st.lists(st.sampled_from([64, 128, 512, 1024]), min_size=1, max_size=8),
    batches=st.integers(1, 6),
    workers=st.integers(1, 8),
    data=st.data(),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_workers_end_within_one_case_of_each_other(
    tmp_path: Path, sizes: list[int], batches: int, workers: int, data: st.DataObject
) -> None:
    """For any durations, where a free worker takes the next case at once; each case is taken once."""
    cases = cases_of_sizes(tmp_path, sizes, batches)
    seconds = {case.id: data.draw(st.integers(1, 6000)) for case in cases}  # whole ones add up exactly
    names = [f"gpu{index}" for index in range(workers)]
    left = {name: claim_order(cases, name, names) for name in names}
    assert all(sorted(case.id for case in own) == sorted(seconds) for own in left.values())
    ended, taken = dict.fromkeys(names, 0.0), set[str]()
    while len(taken) < len(cases):
        name = min(names, key=lambda worker: ended[worker])
        case = next(case for case in left[name] if case.id not in taken)
        taken.add(case.id)
        ended[name] += seconds[case.id]
    assert max(ended.values()) - min(ended.values()) <= max(seconds.values())


def test_variant_with_the_longest_estimate_comes_first(tmp_path: Path) -> None:
    path = tmp_path / "spec.yaml"
    text = SMALL_SPEC.replace("height: 128, width: 128", "height: 128, width: 128, batches: [1]")
    path.write_text(text)
    cases = cases_of(load_spec(path))
    assert longest_first(cases) == ["midas_small_64", "raft_small_128"], "two small cases take longer than a large one"
    path.write_text(text.replace("batches: [1]}", "batches: [1], runtimes: [torch-compile]}"))
    assert longest_first(cases_of(load_spec(path))) == ["raft_small_128", "midas_small_64"]
