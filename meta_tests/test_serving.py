"""`pytest serve_tests` and the runtime `triton` as a person runs them, on the real tritonserver."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import numpy_helper

from fixtures.manifest import enter, read_manifest
from fixtures.spec import Variant
from fixtures.triton.installation import Installation, NoServerError
from meta_tests.conftest import SMALL_SPEC, Ended, Suite
from meta_tests.exports import MIDAS, RAFT, published
from tools import build_model_repository

SMALL_256_SPEC = """\
schema_version: 1
name: served
dtype: fp32
runtimes: [onnxruntime, triton]
variants:
  - {name: midas_small_256, family: midas, model: MiDaS_small, height: 256, width: 256}
  - {name: raft_small_256, family: raft, model: raft_small, height: 256, width: 256}
"""
SERVED_SPEC = SMALL_SPEC.replace("runtimes: [torch]", "runtimes: [torch, onnxruntime, triton]").replace("[1, 2]", "[1]")
TESTS_OF_A_BRANCH = 22


def _why_no_server() -> str | None:
    try:
        Installation.find(None)
    except NoServerError as error:
        return str(error)
    return None


needs_server = pytest.mark.skipif(_why_no_server() is not None, reason=str(_why_no_server()))


@dataclass(frozen=True)
class ServeSuite(Suite):
    """Runs `pytest serve_tests`, or another folder of tests, on files that were exported before."""

    onnx_dir: Path = Path()
    tests: str = "serve_tests"

    def arguments(self, *arguments: str) -> list[str]:
        """What follows `pytest` on the command line."""
        _, *rest = super().arguments()
        return [self.tests, *rest, "--onnx-dir", str(self.onnx_dir), *arguments]


def collected(folder: Path, bundle_root: Path, variants: Sequence[Variant]) -> Path:
    """A folder with the exported files of several variants and one manifest."""
    for variant in variants:
        one = published(bundle_root, variant)
        file = folder / one.export.file
        file.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(one.file, file)
        enter(folder, one.export.file, read_manifest(one.folder).files[one.export.file])
    return folder


@pytest.fixture(scope="module")
def small_onnx(tmp_path_factory: pytest.TempPathFactory, bundle_root: Path) -> Path:
    return collected(tmp_path_factory.mktemp("small"), bundle_root, (MIDAS, RAFT))


@pytest.fixture
def serving(tmp_path: Path, bundle_root: Path, small_onnx: Path) -> ServeSuite:
    (tmp_path / "served.yaml").write_text(SERVED_SPEC)
    return ServeSuite(tmp_path, bundle_root, onnx_dir=small_onnx)


def spec_of(suite: Suite) -> str:
    return str(suite.folder / "served.yaml")


def repository_of(suite: ServeSuite, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> Path:
    """What the builder writes for the small branches."""
    out = suite.folder / "repository"
    given = ["build", "--onnx-dir", str(suite.onnx_dir), "--spec", spec_of(suite), "--out", str(out), *arguments]
    monkeypatch.setattr("sys.argv", given)
    assert build_model_repository.main() == 0
    return out


def outcomes(ended: Ended) -> dict[str, list[str]]:
    """Test name → what became of it in each case, from pytest's short summary."""
    found: dict[str, list[str]] = {}
    for line in ended.stdout.splitlines():
        word, _, rest = line.partition(" ")
        if word in ("PASSED", "FAILED", "SKIPPED") and "::" in rest:
            found.setdefault(rest.split("::")[1].split("[")[0], []).append(word)
    return found


# --- the gate of what is served ---


@needs_server
def test_small_branches_pass_on_the_real_server(tmp_path: Path, bundle_root: Path) -> None:
    """MiDaS small 256 and RAFT small 256 through their ensembles and fused files, over every protocol."""
    (tmp_path / "served.yaml").write_text(SMALL_256_SPEC)
    variants = [
        replace_size(MIDAS, "midas_small_256"),
        replace_size(RAFT, "raft_small_256"),
    ]
    onnx_dir = collected(tmp_path / "onnx", bundle_root, variants)
    suite = ServeSuite(tmp_path, bundle_root, onnx_dir=onnx_dir)
    ended = suite.run("--spec", spec_of(suite), "--requests", "16", "-rA")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert f"{2 * TESTS_OF_A_BRANCH} passed in" in ended.stdout
    for branch in ("midas_256", "raft_256"):
        for protocol in ("http", "grpc", "grpc+shm"):
            assert f"{branch} over {protocol}: torch float64 0.0e+00 → torch fp32 on cpu " in ended.stdout
    assert "→ Triton (emulated) " in ended.stdout


def replace_size(variant: Variant, name: str) -> Variant:
    return variant.model_copy(update={"name": name, "height": 256, "width": 256})


@needs_server
def test_a_thousand_answers_belong_to_their_requests(serving: ServeSuite) -> None:
    ended = serving.run("--spec", spec_of(serving), "-k", "midas and every_answer")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "1 passed" in ended.stdout


def _swap_red_and_blue(repository: Path) -> None:
    """The normalisation of one channel for another's, as a client that sends BGR would meet it."""
    path = repository / "preprocess_midas_64x96" / "1" / "model.onnx"
    model = onnx.load(path)
    for weight in model.graph.initializer:
        if weight.name.endswith(("scale", "offset")):
            weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight)[:, ::-1].copy(), weight.name))
    onnx.save(model, path)


@needs_server
def test_a_repository_with_a_wrong_preprocess_fails(serving: ServeSuite, monkeypatch: pytest.MonkeyPatch) -> None:
    """On its own, before any server; and at the client, where nothing else has changed."""
    repository = repository_of(serving, monkeypatch, "--device", "cpu")
    _swap_red_and_blue(repository)
    ended = serving.run(
        *("--spec", spec_of(serving), "--model-repository", str(repository)),
        *("-k", "midas and (preprocess or golden_frames or live)", "-rA"),
    )
    assert ended.returncode == 1, ended.stdout + ended.stderr
    found = outcomes(ended)
    assert found == {
        "test_preprocess": ["FAILED"],
        "test_golden_frames": ["FAILED"] * 3,
        "test_live_configuration": ["PASSED"],
    }
    assert "grey levels from the module of the bench" in ended.stdout
    assert "midas_64x96 over http:" in ended.stdout


@needs_server
def test_a_server_with_another_configuration_fails(serving: ServeSuite, monkeypatch: pytest.MonkeyPatch) -> None:
    """A live server, which TRITON_HTTP_URL stands for, that runs another configuration than the repository's."""
    repository = repository_of(serving, monkeypatch, "--device", "cpu")
    config = repository / "midas_64x96_onnx" / "config.pbtxt"
    config.write_text(config.read_text().replace("count: 1", "count: 2"))
    ended = serving.run("--spec", spec_of(serving), "--model-repository", str(repository), "-k", "midas and live")
    assert ended.returncode == 0, "a server that runs what is written there passes"
    config.write_text(config.read_text().replace("TYPE_FP32", "TYPE_FP16"))
    ended = serving.run("--spec", spec_of(serving), "--model-repository", str(repository), "-k", "midas and live")
    assert ended.returncode == 1
    assert "the model is TYPE_FP32 but the configuration says TYPE_FP16" in ended.stdout


def test_without_a_server_its_tests_are_skipped_with_the_reason(serving: ServeSuite) -> None:
    ended = serving.run("--spec", spec_of(serving), "--triton-python", "/absent/python", "-rA", "-k", "midas")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert f"1 passed, {TESTS_OF_A_BRANCH - 1} skipped" in ended.stdout
    assert "no Triton: /absent/python does not exist. Run `make serve-env`, or set TRITON_HTTP_URL" in ended.stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--requests", "0"), "--requests: value='0', expected 1 to 1000000. Write a number."),
        (("--dtype", "fp16"), "branch midas_64x96: precision of midas/midas_small_64x96.onnx=fp32, expected fp16"),
        (("--onnx-dir", "absent"), "absent/midas/midas_small_64x96.onnx: file=missing, expected an exported file."),
        (("--model-repository", "absent"), "--model-repository absent: folder=No such file or directory"),
        (("-n", "2"), "-n 2: processes=several"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_bad_input_ends_with_one_message_and_code_2(serving: ServeSuite, arguments: tuple[str, ...], says: str) -> None:
    ended = serving.run("--spec", spec_of(serving), *arguments)
    assert ended.returncode == 2, ended.stdout + ended.stderr
    assert says in ended.stderr
    assert "Traceback" not in ended.stdout + ended.stderr


# --- served latency ---


@needs_server
def test_a_served_branch_is_one_more_runtime(serving: ServeSuite) -> None:
    """Rows, summary, waterfall and perf_analyzer's columns of one run."""
    suite = replace(serving, tests="bench_tests")
    perf = suite.folder / "perf.csv"
    ended = suite.run("--spec", spec_of(suite), "--run-id", "served", "--perf-csv", str(perf), "-k", "midas")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    run = suite.folder / "out" / "served"
    summary = json.loads((run / "summary.json").read_text())
    assert summary["complete"]
    case = next(case for case in summary["cases"] if case["runtime"] == "triton")
    _require_served(case)
    (waterfall,) = summary["waterfalls"]
    assert [hop["hop"] for hop in waterfall["hops"]] == [
        *("torch", "ONNX Runtime", "Triton, model alone", "Triton, ensemble", "client, http")
    ]
    assert waterfall["serving_tax_percent"] is not None
    assert "(emulated server); serving tax " in ended.stdout
    rows = [json.loads(line) for line in (run / "results.jsonl").read_text().splitlines()]
    served = [row for row in rows if row["runtime"] == "triton"]
    assert len(served) == case["rounds"] >= 5
    assert all(row["knobs"]["server"] == "emulated" and row["knobs"]["protocol"] == "http" for row in served)
    levels = list(csv.DictReader(perf.read_text().splitlines()))
    assert [level["Concurrency"] for level in levels] == ["1", "2", "4", "8"]
    assert all(0 < float(level["p50 latency"]) <= float(level["p95 latency"]) for level in levels)


def _require_served(case: dict[str, Any]) -> None:
    served = case["served"]
    assert served["server"] == "emulated"
    assert served["load_ms"] > 0
    assert [(path["role"], path["protocol"]) for path in served["paths"]] == [
        ("ensemble", "http"),
        ("ensemble", "grpc"),
        ("ensemble", "grpc+shm"),
        ("model", "http"),
        ("fused", "http"),
    ]
    models = ("midas_64x96", "preprocess_midas_64x96", "midas_64x96_onnx")
    assert {step["model"]: step["requests"] for step in served["steps"]} == dict.fromkeys(models, case["rounds"])
    for path in served["paths"]:
        assert 0 < path["server_ms"] <= path["latency_ms"]["p50"]
    assert case["cold_start"]["prepare_ms"] >= served["load_ms"]
    # The server's processes count: more than this process alone.
    memory = case["memory"]["rss_mb"]
    assert memory["first_call"] > memory["loaded"] + 50


def test_without_a_server_the_runtime_is_refused(serving: ServeSuite) -> None:
    suite = replace(serving, tests="bench_tests")
    ended = suite.run("--spec", spec_of(suite), "--triton-python", "/absent/python", "-k", "midas and triton")
    assert ended.returncode == 2
    assert "runtime triton of midas_small_64-b1-fp32-triton: no Triton: /absent/python does not exist" in ended.stderr
    assert not (suite.folder / "out").exists()
