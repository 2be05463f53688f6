"""fixtures/sessions/plan.py: what a person gets wrong about a run is refused before anything is measured."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch

from fixtures import onnx_session
from fixtures.errors import InputError
from fixtures.sessions.plan import Plan
from fixtures.triton.live import LiveServer
from meta_tests.conftest import SMALL_SPEC
from meta_tests.exports import MIDAS
from meta_tests.plans import plan_of
from meta_tests.served import published_together

pytestmark = pytest.mark.usefixtures("own_environment")

RAFT_FILE = "torch_cache/hub/checkpoints/raft_small_C_T_V2-01064c6d.pth"


def test_plan_has_every_case_of_the_selected_variants_in_the_order_of_the_spec(
    tmp_path: Path, bundle_root: Path
) -> None:
    plan = plan_of(tmp_path, SMALL_SPEC, bundle_root, variants="raft_small_128", dtype="tf32")
    assert [case.id for case in plan.cases] == ["raft_small_128-b1-tf32-torch", "raft_small_128-b2-tf32-torch"]
    assert (plan.run_id, plan.out, plan.product) == ("r", tmp_path / "out", None)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"run_id": "../up"}, "--run-id: value='../up', expected a plain folder name"),
        ({"run_id": ""}, "--run-id: value='', expected a plain folder name"),
        ({"run_id": None, "resume": True}, "runs=0, expected a run to go on with"),
        ({"run_id": None, "resume": True, "out": "long" * 100}, "folder=File name too long"),
    ],
)
def test_run_without_a_folder_is_refused(tmp_path: Path, bundle_root: Path, options: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError) as refusal:
        plan_of(tmp_path, SMALL_SPEC, bundle_root, **options)
    assert says in str(refusal.value)


def test_newest_run_is_resumed_and_a_new_one_is_named_by_its_device(tmp_path: Path, bundle_root: Path) -> None:
    for name in ("older", "newest"):
        (tmp_path / "out" / name).mkdir(parents=True)
        (tmp_path / "out" / name / "summary.json").touch()
    assert plan_of(tmp_path, SMALL_SPEC, bundle_root, run_id=None, resume=True).run_id == "newest"
    assert "-cpu-" in plan_of(tmp_path, SMALL_SPEC, bundle_root, run_id=None).run_id


# --- what a case needs ---


def skip_reasons(plan: Plan) -> list[str | None]:
    return [plan.skip_reason(case) for case in plan.cases]


def test_runtime_that_needs_tensorrt_is_skipped_without_it(
    tmp_path: Path, bundle_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = SMALL_SPEC.replace("[torch]", "[onnxruntime-tensorrt]").replace("[1, 2]", "[1]")
    plan = plan_of(tmp_path, text, bundle_root)
    plan = replace(plan, device=torch.device("cuda", 0))
    monkeypatch.setattr(onnx_session, "_LIBRARY", "libabsent.so.10")
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["TensorrtExecutionProvider"])
    says = "runtime onnxruntime-tensorrt needs TensorRT, and its library does not load (libabsent.so.10: cannot open"
    assert all(reason and reason.startswith(says) for reason in skip_reasons(plan))
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    says = "runtime onnxruntime-tensorrt needs an ONNX Runtime with TensorrtExecutionProvider, and this one has CPU"
    assert all(reason and reason.startswith(says) for reason in skip_reasons(plan))


def test_runtime_that_needs_cuda_is_skipped_on_a_cpu(tmp_path: Path, bundle_root: Path) -> None:
    plan = plan_of(tmp_path, SMALL_SPEC.replace("[torch]", "[torch-graph]").replace("[1, 2]", "[1]"), bundle_root)
    assert skip_reasons(plan) == ["runtime torch-graph needs a CUDA device, and this run uses cpu"] * 2


def test_case_that_the_named_server_has_not_is_skipped_by_name(
    tmp_path: Path, bundle_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    onnx_dir = published_together(tmp_path / "onnx", bundle_root, [MIDAS])
    monkeypatch.setenv("TRITON_HTTP_URL", "localhost:1")
    monkeypatch.setattr("fixtures.triton.live.is_ready", lambda _: True)
    monkeypatch.setattr(LiveServer, "why_absent", lambda _, model: f"the server's index lists no {model}")
    text = SMALL_SPEC.replace("[torch]", "[torch, triton]").replace("[1, 2]", "[1]").rsplit("  - {", 1)[0]
    plan = plan_of(tmp_path, text, bundle_root, onnx_dir=str(onnx_dir))
    absent = "the server's index lists no midas_64x96 (TRITON_HTTP_URL=localhost:1)"
    assert skip_reasons(plan) == [None, absent]


def test_variant_of_another_gpu_is_skipped(tmp_path: Path, bundle_root: Path) -> None:
    spec = SMALL_SPEC.replace("[1, 2]", "[1]").replace("width: 128}", "width: 128, gpu: H100}")
    plan = plan_of(tmp_path, spec, bundle_root)
    assert skip_reasons(plan) == [None, "variant raft_small_128 asks for H100, this is cpu"]
    assert skip_reasons(replace(plan, product="NVIDIA H100 80GB HBM3")) == [None, None]
    assert (
        skip_reasons(replace(plan, product="NVIDIA A100"))[1]
        == "variant raft_small_128 asks for H100, this is NVIDIA A100"
    )


def test_optional_variant_without_weights_is_skipped_and_another_one_refused(tmp_path: Path, bundle_root: Path) -> None:
    spec = SMALL_SPEC.replace("[1, 2]", "[1]").replace("model: raft_small,", "model: raft_large, optional: true,")
    optional = plan_of(tmp_path, spec, bundle_root)
    first, second = skip_reasons(optional)
    assert first is None
    assert "optional variant raft_small_128: " in str(second)
    assert "raft_large_C_T_SKHT_V2-ff5fadd5.pth: file=missing" in str(second)
    optional.require_measurable(optional.cases)
    plan = plan_of(tmp_path, spec.replace("optional: true,", ""), bundle_root)
    with pytest.raises(InputError, match="file=missing, expected the official checkpoint"):
        plan.require_measurable(plan.cases)


@pytest.mark.parametrize(
    ("file", "says"),
    [(RAFT_FILE, "raft_small_C_T_V2-01064c6d.pth: content=damaged"), ("SYNTHETIC.json", "SYNTHETIC.json: content=unr")],
)
def test_damaged_bundle_is_refused(tmp_path: Path, bundle_root: Path, file: str, says: str) -> None:
    root = Path(shutil.copytree(bundle_root, tmp_path / "root"))
    content = (root / file).read_bytes()
    (root / file).unlink()
    (root / file).write_bytes(content[: len(content) // 2])
    plan = plan_of(tmp_path, SMALL_SPEC, root)
    with pytest.raises(InputError) as refusal:
        plan.require_measurable(plan.cases)
    assert says in str(refusal.value)
