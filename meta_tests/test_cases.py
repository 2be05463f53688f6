"""Case ids, and the order of cases."""

from pathlib import Path

from fixtures.cases import cases_of, exports_of
from fixtures.spec import load_spec
from meta_tests.conftest import ROOT


def test_case_ids_are_unique_and_never_change() -> None:
    cases = cases_of(load_spec(ROOT / "specs" / "pretriton_gpu.yaml"))
    assert cases[0].id == "midas_small_256-b1-fp16-torch"
    assert cases[-1].id == "raft_small_512-b8-fp16-torch-compile"
    assert len({case.id for case in cases}) == len(cases) == 6 * 2 * 3


def test_cases_of_a_variant_are_adjacent(small_spec: Path) -> None:
    names = [case.variant.name for case in cases_of(load_spec(small_spec))]
    assert names == sorted(names)


def test_variant_may_name_its_own_batches_and_runtimes(small_spec: Path) -> None:
    text = small_spec.read_text().replace("height: 64", "batches: [4], runtimes: [torch-graph], height: 64")
    small_spec.write_text(text)
    ids = [case.id for case in cases_of(load_spec(small_spec), dtype="fp16")]
    assert ids == [
        "midas_small_64-b4-fp16-torch-graph",
        "raft_small_128-b1-fp16-torch",
        "raft_small_128-b2-fp16-torch",
    ]


def test_variant_may_name_its_own_graph_and_packages_have_none(small_spec: Path) -> None:
    text = small_spec.read_text().replace("height: 64", "onnx_graph: cuda, batches: [1], height: 64")
    text = text.replace("dtype: fp32", "dtype: fp32\nonnx_graph: contrib\nformats: [onnx, aoti]")
    small_spec.write_text(text)
    spec = load_spec(small_spec)
    graphs = [(export.id, export.graph) for export in exports_of(spec) if export.batch == 1]
    assert graphs == [
        ("midas_small_64-b1-fp32", "cuda"),
        ("midas_small_64-b1-fp32-aoti", "portable"),
        ("raft_small_128-b1-fp32", "contrib"),
        ("raft_small_128-b1-fp32-aoti", "portable"),
    ]
    assert {case.export.graph for case in cases_of(spec)} == {"cuda", "contrib"}


def test_frames_have_the_size_of_the_branch_unless_the_spec_names_another(small_spec: Path) -> None:
    text = small_spec.read_text().replace("height: 64", "frame: {height: 720, width: 1280}, height: 64")
    small_spec.write_text(text)
    sizes = {case.variant.name: case.variant.frame_size for case in cases_of(load_spec(small_spec))}
    assert sizes == {"midas_small_64": (720, 1280), "raft_small_128": (128, 128)}


def test_dtype_of_the_command_line_comes_before_that_of_a_variant_and_of_the_spec(small_spec: Path) -> None:
    small_spec.write_text(small_spec.read_text().replace("height: 64", "dtype: tf32, height: 64"))
    spec = load_spec(small_spec)
    assert [export.dtype for export in exports_of(spec)] == ["tf32", "tf32", "fp32", "fp32"]
    assert {export.dtype for export in exports_of(spec, dtype="fp16")} == {"fp16"}
