"""The runtime `onnxruntime` takes the options of a file from its manifest entry."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch

from fixtures.cases import Case
from fixtures.environment import library_version, processor_name
from fixtures.errors import InputError
from fixtures.manifest import enter, read_manifest
from fixtures.runtimes.onnxruntime import OnnxRuntime
from fixtures.runtimes.onnxruntime_tensorrt import OnnxRuntimeTensorrt
from fixtures.subject import OnnxSubject, Sources, device_inputs, load_onnx_subject
from fixtures.weights.bundle import Bundle
from meta_tests.exports import MIDAS, published
from meta_tests.file_records import with_tuning
from meta_tests.loading import CONTENT

CPU = torch.device("cpu")
CASE = Case(MIDAS, 1, "fp32", "onnxruntime")
OPTIONS = {"intra_op_thread_count": "1", "execution_mode": "parallel"}
HERE = {"device": processor_name("cpu"), "onnxruntime": library_version("onnxruntime")}

Load = Callable[..., OnnxSubject]


@pytest.fixture
def load(bundle_root: Path, tmp_path: Path) -> Load:
    """Loads a published file after it was tuned to options somewhere."""
    place = published(bundle_root, MIDAS).copy(tmp_path / "onnx")
    name = place.export.file

    def tuned(options: dict[str, str], **changes: Any) -> OnnxSubject:
        entry = read_manifest(place.folder).files[name].model_copy(update={"tunings": ()})
        enter(place.folder, name, with_tuning(entry, options, "cpu", **changes))
        return load_onnx_subject(CASE, CPU, Sources(Bundle(bundle_root), place.folder))

    return tuned


def runtime_of(subject: OnnxSubject) -> OnnxRuntime:
    return OnnxRuntime(subject, device_inputs(subject, CASE, CONTENT, 1))


def test_session_has_the_options_and_the_row_says_them(load: Load) -> None:
    with runtime_of(load(OPTIONS, **HERE)) as runtime:
        assert runtime._session is not None
        options = runtime._session.get_session_options()
        assert options.intra_op_num_threads == 1
        assert options.execution_mode == onnxruntime.ExecutionMode.ORT_PARALLEL
        assert runtime.observe(5).knobs == OPTIONS
        assert runtime.observe(5).notes == ()


def test_row_says_that_options_were_tuned_elsewhere(load: Load) -> None:
    found = runtime_of(load(OPTIONS, device="another", onnxruntime=HERE["onnxruntime"])).observe(5)
    assert found.notes == (f"options tuned for another processor: another, and this is {HERE['device']}",)
    found = runtime_of(load(OPTIONS, device=HERE["device"], onnxruntime="1.0")).observe(5)
    assert found.notes == (f"options tuned for another ONNX Runtime: 1.0, and this is {HERE['onnxruntime']}",)
    assert runtime_of(load({}, device="another")).observe(5).notes == ()


def test_tensorrt_runs_without_options_that_were_tuned_without_it(load: Load) -> None:
    assert OnnxRuntimeTensorrt(load(OPTIONS), []).options == {}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"prefer_nhwc": "1"}, "prefer_nhwc=1, expected one of intra_op_thread_count, execution_mode"),
        ({"execution_mode": "fast"}, "execution_mode=fast, expected sequential or parallel"),
        ({"intra_op_thread_count": "-1"}, "intra_op_thread_count=-1, expected a number"),
    ],
)
def test_option_that_the_provider_lacks_is_refused(load: Load, options: dict[str, str], says: str) -> None:
    with pytest.raises(InputError) as caught, runtime_of(load(options, **HERE)):
        pass
    assert says in str(caught.value)
    assert "Tune it again: `python -m tools.tune_files`" in str(caught.value)
