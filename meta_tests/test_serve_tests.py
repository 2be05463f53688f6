"""`pytest serve_tests` as a person runs it, on real servers: it passes, and it fails for servers with defects."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from fixtures.triton.live import LiveServer
from fixtures.triton.repository import VERSION
from meta_tests.cache import link_tree
from meta_tests.conftest import Ended
from meta_tests.exports import MIDAS
from meta_tests.served import PROTOCOLS, ServeSuite, SmallServer, names_server, published_together

TESTS_OF_A_BRANCH = 22
REQUESTS = "16"  # of 8 clients that overlap; requests take 8 input sets in turn, each with an answer of its own


@pytest.fixture
def suite(tmp_path: Path, bundle_root: Path, small_server: SmallServer) -> ServeSuite:
    """Starts a server of its own."""
    return ServeSuite(tmp_path, bundle_root, onnx_dir=small_server.onnx_dir)


@pytest.fixture
def suite_of_running(tmp_path: Path, bundle_root: Path, small_server: SmallServer) -> ServeSuite:
    """Asks the server that runs already."""
    variables = names_server(small_server.endpoint)
    return ServeSuite(tmp_path, bundle_root, variables=variables, onnx_dir=small_server.onnx_dir)


def outcomes(ended: Ended) -> dict[str, list[str]]:
    """Test name → outcome of each of its cases, from pytest's short summary."""
    found: dict[str, list[str]] = {}
    for line in ended.stdout.splitlines():
        word, _, rest = line.partition(" ")
        if word in ("PASSED", "FAILED") and "::" in rest:
            found.setdefault(rest.split("::")[1].split("[")[0], []).append(word)
    return found


# --- passes ---


def test_branch_passes_on_a_server_of_its_own(suite: ServeSuite) -> None:
    """Every test, including those that need the server's processes: shared memory, memory growth, a restart."""
    ended = suite.run("--requests", REQUESTS, "-k", "midas")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert f"{TESTS_OF_A_BRANCH} passed" in ended.stdout
    checked = f"{REQUESTS} answers to {REQUESTS} different requests at concurrency 8 over grpc+shm, none wrong"
    assert f"midas_64x96: {checked}" in ended.stdout
    for protocol in PROTOCOLS:
        assert f"midas_64x96 over {protocol}: torch float64 0.0e+00 → torch fp32 on cpu " in ended.stdout
    assert "→ Triton (emulated) " in ended.stdout


def test_branch_passes_on_a_running_server(suite_of_running: ServeSuite) -> None:
    """Of two inputs; without what needs the server's processes, and without naming its repository.

    Of the wrong requests, those of which one input is right: the others are the same for one input and for two.
    """
    others = "dtype or size or NCHW or many"
    ended = suite_of_running.run("--requests", "8", "-k", f"raft and not (wrong_requests and ({others}))", "-rs")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert f"{TESTS_OF_A_BRANCH - 8 - 2} passed, 2 skipped" in ended.stdout
    assert "needs a server on this machine; TRITON_HTTP_URL may name another machine" in ended.stdout
    assert "needs a server that this run started; TRITON_HTTP_URL names another one" in ended.stdout
    assert "raft_128 over http: torch float64 " in ended.stdout


def test_branch_that_the_running_server_has_not_is_skipped_by_name(
    suite_of_running: ServeSuite, small_server: SmallServer
) -> None:
    """Without --model-repository the server's index says what is there; a given repository has to be served."""
    spec = suite_of_running.folder / "another.yaml"
    spec.write_text(suite_of_running.spec.read_text().replace("height: 64,", "branch: another, height: 64,"))
    ended = suite_of_running.run("--spec", str(spec), "-k", "midas", "-rs")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert f"1 passed, {TESTS_OF_A_BRANCH - 1} skipped" in ended.stdout
    where = f"(TRITON_HTTP_URL={small_server.endpoint.http})"
    assert f"the server's index lists no another {where}" in ended.stdout


def test_without_a_server_its_tests_are_skipped_with_the_reason(tmp_path: Path, bundle_root: Path) -> None:
    onnx_dir = published_together(tmp_path / "onnx", bundle_root, [MIDAS])
    suite = ServeSuite(tmp_path, bundle_root, onnx_dir=onnx_dir)
    ended = suite.run("--triton-python", "/absent/python", "-rs", "-k", "midas")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert f"1 passed, {TESTS_OF_A_BRANCH - 1} skipped" in ended.stdout
    assert "no Triton: /absent/python does not exist. Run `make serve-env`, or set TRITON_HTTP_URL" in ended.stdout


# --- fails ---


@contextmanager
def defects(small_server: SmallServer) -> Iterator[None]:
    """Serve BGR frames to another file, and with another number of instances than config.pbtxt says afterwards."""
    branch = small_server.branches["midas"]
    preprocess = branch.models["preprocess"].name
    file = small_server.repository / preprocess / VERSION / "model.onnx"
    config = small_server.repository / branch.models["model"].name / "config.pbtxt"
    model = config.parent / VERSION / "model.onnx"
    before = file.read_bytes(), config.read_text()
    with LiveServer(small_server.endpoint) as live:
        try:
            _swap_red_and_blue(file)
            live.load(preprocess)
            model.rename(model.with_name("right"))  # a link to the published file
            _scale_a_weight(model.with_name("right"), model)
            live.load(config.parent.name)
            config.write_text(before[1].replace("count: 1", "count: 2"))
            yield
        finally:
            file.write_bytes(before[0])
            config.write_text(before[1])
            model.with_name("right").replace(model)
            live.load(preprocess)
            live.load(config.parent.name)


def _swap_red_and_blue(file: Path) -> None:
    """Exchange the normalisations of two channels."""
    model = onnx.load(file)
    for weight in model.graph.initializer:
        if weight.name.endswith(("scale", "offset")):
            weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight)[:, ::-1].copy(), weight.name))
    onnx.save(model, file)


def _scale_a_weight(file: Path, to: Path) -> None:
    """Write a file with its largest weight 10% larger."""
    model = onnx.load(file)
    weight = max(model.graph.initializer, key=lambda one: prod(one.dims))
    scaled = numpy_helper.to_array(weight) * np.float32(1.1)
    weight.CopyFrom(numpy_helper.from_array(scaled, weight.name))
    onnx.save(model, to)


def test_wrong_preprocess_and_configuration_fail(suite_of_running: ServeSuite, small_server: SmallServer) -> None:
    """A preprocess defect is found in the file and in the answers, a configuration that is not live by its name.

    That the server holds another file is found where its answers are compared with those in one process.
    """
    repository = ("--model-repository", str(small_server.repository))
    checks = "preprocess or live or every_answer or golden_frames and not grpc"
    with defects(small_server):
        ended = suite_of_running.run(*repository, "--requests", "8", "-k", f"midas and ({checks})", "-rA")
    assert ended.returncode == 1, ended.stdout + ended.stderr
    assert outcomes(ended) == {
        "test_preprocess": ["FAILED"],
        "test_golden_frames": ["FAILED"],
        "test_live_configuration": ["FAILED"],
        "test_every_answer_is_that_of_its_request": ["FAILED"],
    }
    assert "from the file in one process, over" in ended.stdout
    assert "grey levels from the module of the bench" in ended.stdout
    assert "midas_64x96 over http:" in ended.stdout
    assert "midas_64x96_onnx.instance_group[0].count: 1, expected 2" in ended.stdout


def test_server_that_refuses_the_repository_fails_with_its_message(
    suite: ServeSuite, small_server: SmallServer
) -> None:
    damaged = link_tree(small_server.repository, suite.folder / "repository")
    for folder in damaged.glob("*raft*"):
        shutil.rmtree(folder)
    config = damaged / "midas_64x96_onnx" / "config.pbtxt"
    config.write_text(config.read_text().replace("TYPE_FP32", "TYPE_FP16"))
    ended = suite.run("--model-repository", str(damaged), "-k", "midas and live")
    assert ended.returncode == 1, ended.stdout + ended.stderr
    assert "the model is TYPE_FP32 but the configuration says TYPE_FP16" in ended.stdout
    assert "Traceback" not in ended.stdout + ended.stderr
    assert "_wait_until_ready" not in ended.stdout, "a traceback in the place of a message"


# --- refused ---


def test_bad_input_ends_with_one_message_and_code_2(tmp_path: Path, bundle_root: Path) -> None:
    ended = ServeSuite(tmp_path, bundle_root, onnx_dir=tmp_path / "absent").run()
    assert ended.returncode == 2, ended.stdout + ended.stderr
    says = "absent/midas/midas_small_64x96.onnx: file=missing, expected an exported file."
    assert ended.stderr.startswith("ERROR: ")
    assert says in ended.stderr
    assert "Traceback" not in ended.stdout + ended.stderr
