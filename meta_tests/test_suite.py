"""The suite as a person runs it: a process, a command line, an exit code, and files on disk."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from fixtures.environment import environment as environment_of
from fixtures.results.reading import summarize_file
from fixtures.weights.checkpoint import read_state_dict
from meta_tests.conftest import HANGS_S, ROOT, SMALL_SPEC, Suite, environment, wait_until

RAFT_FILE = "torch_cache/hub/checkpoints/raft_small_C_T_V2-01064c6d.pth"


def summary_of(suite: Suite, run_id: str) -> dict[str, Any]:
    summary: dict[str, Any] = json.loads((suite.folder / "out" / run_id / "summary.json").read_text())
    return summary


def rows_of(suite: Suite, run_id: str) -> list[dict[str, Any]]:
    text = (suite.folder / "out" / run_id / "results.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def by_id(summary: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {case["id"]: case for case in summary["cases"]}


def test_a_run_from_the_command_line_to_every_file(suite: Suite, small_spec: Path) -> None:
    json_path = suite.folder / "new" / "bench.json"
    command = suite.command("--spec", str(small_spec), "--run-id", "r", f"--benchmark-json={json_path}", "-k", "raft")
    ended = subprocess.run(
        command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=HANGS_S, check=False
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    for said in ("device:", "spec: small, 4 cases", "synthetic weights", "p95 ms", "raft_small_128", "summary.json"):
        assert said in ended.stdout

    summary = summary_of(suite, "r")
    assert (summary["complete"], [case["id"] for case in summary["cases"]]) == (
        True,
        ["raft_small_128-b1-fp32-torch", "raft_small_128-b2-fp32-torch"],
    )
    rows = rows_of(suite, "r")
    for case in summary["cases"]:
        own = [row for row in rows if row["case_id"] == case["id"]]
        assert len(own) == case["rounds"] >= 5
        assert case["weights"]["synthetic"] is True
        assert len(case["weights"]["sha256"]) == len(case["model_signature"]) == 64
        assert case["memory"]["source"] == "fresh_process"
        assert case["cold_start"]["first_call_ms"] > 0
        assert {row["rss_mb"] for row in own} == {case["memory"]["rss_mb"]["steady"]}
        assert case["latency_ms"]["p50"] > 0

    document = json.loads(json_path.read_text())
    assert document["machine_info"]["pretriton"]["torch"] == torch.__version__.split("+")[0]
    for entry in document["benchmarks"]:
        case = by_id(summary)[entry["param"]]
        assert entry["params"] == {"case": case["id"]}
        assert entry["extra_info"]["case"] == case
        assert [seconds * 1e3 for seconds in entry["stats"]["data"]] == pytest.approx(
            [row["latency_ms"] for row in rows if row["case_id"] == case["id"]], rel=1e-12
        )
        assert entry["stats"]["median"] * 1e3 == pytest.approx(case["latency_ms"]["p50"])

    for source in (json_path, suite.folder / "out" / "r" / "results.jsonl"):
        output = suite.folder / "again.json"
        subprocess.run([sys.executable, "-m", "tools.summarize", str(source), "-o", str(output)], cwd=ROOT, check=True)
        again = json.loads(output.read_text())
        assert again["table"] == {"raft_small_128": pytest.approx(summary["table"]["raft_small_128"])}
        assert by_id(again).keys() == by_id(summary).keys()
        assert by_id(again)["raft_small_128-b1-fp32-torch"]["memory"] == summary["cases"][0]["memory"]
        assert again["complete"] is (source == json_path)

    later = shutil.copy(json_path, json_path.with_name("later.json"))
    compared = subprocess.run(
        [sys.executable, "-m", "pytest_benchmark", "compare", str(json_path), str(later)],
        capture_output=True,
        text=True,
        timeout=HANGS_S,
        check=False,
    )
    assert compared.returncode == 0, compared.stderr
    assert "raft_small_128-b1-fp32-torch" in compared.stdout


def _wait_for_cases(process: subprocess.Popen[bytes], results: Path, count: int) -> None:
    def are_there() -> bool:
        assert process.poll() is None, "it has ended by itself"
        return results.exists() and results.read_text().count('"round":0,') >= count

    wait_until(are_there)


def test_killed_at_any_case_a_run_keeps_what_it_has_and_goes_on(suite: Suite, small_spec: Path) -> None:
    arguments = ("--spec", str(small_spec), "--run-id", "r", "-k", "test_latency")
    results = suite.folder / "out" / "r" / "results.jsonl"
    resume: tuple[str, ...] = ()
    for finished_before_kill in (1, 3):
        process = subprocess.Popen(
            suite.command(*arguments, *resume), cwd=ROOT, env=environment(), stdout=subprocess.PIPE
        )
        _wait_for_cases(process, results, finished_before_kill)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        summary = summary_of(suite, "r")
        assert summary["complete"] is False
        in_rows = {row["case_id"] for row in rows_of(suite, "r")}
        assert len(in_rows) >= finished_before_kill
        # The summary follows its rows; the kill may fall between the two.
        assert in_rows >= by_id(summary).keys()
        assert len(in_rows - by_id(summary).keys()) <= 1
        resume = ("--resume",)

    before = {row["case_id"]: row["latency_ms"] for row in rows_of(suite, "r") if row["round"] == 0}
    json_path = suite.folder / "bench.json"
    ended = suite.run(*arguments, "--resume", f"--benchmark-json={json_path}")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    after = {row["case_id"]: row["latency_ms"] for row in rows_of(suite, "r") if row["round"] == 0}
    assert summary_of(suite, "r")["complete"] is True
    assert len(after) == 4
    assert {case_id: after[case_id] for case_id in before} == before, "finished cases are not measured again"
    assert len(json.loads(json_path.read_text())["benchmarks"]) == 4


def test_a_resumed_run_must_be_the_same_run(suite: Suite, small_spec: Path) -> None:
    folder = suite.folder / "out" / "r"
    folder.mkdir(parents=True)
    header = {
        "run_id": "r",
        "complete": False,
        "environment": {"device": "cuda", "gpu": "H200"},
        "cases": [],
        "table": {},
    }
    (folder / "summary.json").write_text(json.dumps(header))
    ended = suite.run("--spec", str(small_spec), "--resume", "-k", "raft_small_128-b1")
    assert ended.returncode == 2
    assert "--resume of r: device=cpu, expected cuda, as the run began." in ended.stderr
    assert json.loads((folder / "summary.json").read_text()) == header


def test_a_resumed_run_must_have_the_same_frames_spec_and_weights(
    suite: Suite, small_spec: Path, tmp_path: Path
) -> None:
    root = Path(shutil.copytree(suite.models_root, tmp_path / "root"))
    own = Suite(tmp_path, root)
    photo = tmp_path / "photos" / "noise.png"
    photo.parent.mkdir()
    Image.effect_noise((64, 64), 60).save(photo)
    arguments = ("--spec", str(small_spec), "--run-id", "r", "--frames", str(photo.parent), "-k", "raft_small_128-b1")
    assert own.run(*arguments).returncode == 0
    files = ("out/r/results.jsonl", "out/r/memory.jsonl")
    before = [(tmp_path / file).read_text() for file in files]

    refusals = []
    for changed in (("height: 128", "height: 160"), ("cpu_budget_s: 0.2", "cpu_budget_s: 0.3")):
        small_spec.write_text(SMALL_SPEC.replace(*changed))
        refusals.append(own.run(*arguments, "--resume"))
    small_spec.write_text(SMALL_SPEC)
    first_photo = photo.read_bytes()
    Image.effect_noise((64, 64), 60).save(photo)
    refusals.append(own.run(*arguments, "--resume"))
    photo.write_bytes(first_photo)
    others = {key: value + 1 for key, value in read_state_dict(root / RAFT_FILE).items()}
    (root / RAFT_FILE).unlink()
    refusals.append(own.run(*arguments[:-1], "midas_small_64-b1", "--resume"))
    torch.save(others, root / RAFT_FILE)
    refusals.append(own.run(*arguments, "--resume"))
    (tmp_path / files[0]).unlink()  # the memory pass has been made with other weights too
    refusals.append(own.run(*arguments, "--resume"))
    (tmp_path / files[0]).write_text(before[0])
    weights = f"weights={RAFT_FILE} changed"
    says = (
        "variant=raft_small_128 changed",
        "protocol=",
        "frames, sounds or prompts=others",
        "file=missing",
        weights,
        weights,
    )
    for ended, said in zip(refusals, says, strict=True):
        assert ended.returncode == 2, ended.stdout + ended.stderr
        assert said in ended.stderr
    assert [(tmp_path / file).read_text() for file in files] == before


def test_a_resumed_run_keeps_the_variants_that_it_began_with(suite: Suite, small_spec: Path) -> None:
    arguments = ("--run-id", "r", "-k", "test_latency and midas_small_64-b1", "--spec")
    assert suite.run(*arguments, str(small_spec)).returncode == 0
    began_with = summary_of(suite, "r")["run"]["variants"]
    one = suite.folder / "one.yaml"
    one.write_text("\n".join(line for line in SMALL_SPEC.splitlines() if "raft" not in line))
    assert suite.run(*arguments, str(one), "--resume").returncode == 0
    assert summary_of(suite, "r")["run"]["variants"] == began_with
    assert began_with.keys() == {"midas_small_64", "raft_small_128"}


@pytest.mark.parametrize("fact", ["torch_threads", "timm"])
def test_a_resumed_run_must_be_on_the_same_machine(suite: Suite, small_spec: Path, fact: str) -> None:
    folder = suite.folder / "out" / "r"
    folder.mkdir(parents=True)
    then = {**environment_of("cpu", None), fact: "another"}
    header = {"run_id": "r", "complete": False, "environment": then, "cases": [], "table": {}}
    (folder / "summary.json").write_text(json.dumps(header))
    ended = suite.run("--spec", str(small_spec), "--resume", "-k", "raft_small_128-b1")
    assert ended.returncode == 2
    assert f": {fact}=" in ended.stderr


def test_an_output_that_is_not_finite_is_an_error_row_and_no_time_anywhere(
    suite: Suite, small_spec: Path, tmp_path: Path
) -> None:
    root = Path(shutil.copytree(suite.models_root, tmp_path / "root"))
    state_dict = read_state_dict(root / RAFT_FILE)
    state_dict["update_block.flow_head.conv2.bias"][0] = torch.nan
    torch.save(state_dict, root / RAFT_FILE)
    broken = Suite(tmp_path, root)
    json_path = tmp_path / "bench.json"
    arguments = (
        "--spec",
        str(small_spec),
        "--run-id",
        "r",
        "-k",
        "test_latency and b1",
        f"--benchmark-json={json_path}",
    )
    ended = broken.run(*arguments)
    assert ended.returncode == 1, ended.stdout + ended.stderr
    cases = by_id(summary_of(broken, "r"))
    failed = cases["raft_small_128-b1-fp32-torch"]
    assert (failed["status"], failed["latency_ms"], failed["rounds"]) == ("error", None, 0)
    assert "output values are not finite in fp32" in failed["error"]
    assert cases["midas_small_64-b1-fp32-torch"]["status"] == "ok"
    (row,) = [row for row in rows_of(broken, "r") if row["case_id"] == failed["id"]]
    assert (row["status"], row["latency_ms"]) == ("error", None)
    document = json.loads(json_path.read_text())
    assert [entry["param"] for entry in document["benchmarks"]] == ["midas_small_64-b1-fp32-torch"]
    assert [case["id"] for case in document["pretriton"]["cases_without_timing"]] == [failed["id"]]
    assert "raft_small_128" not in summary_of(broken, "r")["table"]

    rows = rows_of(broken, "r")
    resumed = broken.run(*arguments, "--resume")
    assert resumed.returncode == 1, "a failure that was measured before is still a failure"
    assert rows_of(broken, "r") == rows


def test_the_memory_pass_alone_is_a_whole_run(suite: Suite, small_spec: Path) -> None:
    json_path = suite.folder / "bench.json"
    json_path.write_text('{"benchmarks": ["of an earlier run"]}')
    arguments = ("--spec", str(small_spec), "--run-id", "r", "-k", "test_memory and raft_small_128-b1")
    ended = suite.run(*arguments, f"--benchmark-json={json_path}")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "raft_small_128-b1-fp32-torch: memory " in ended.stdout
    folder = suite.folder / "out" / "r"
    written = [line.removeprefix("wrote ") for line in ended.stdout.splitlines() if line.startswith("wrote ")]
    assert written == [str(folder / "memory.jsonl"), str(folder / "summary.json")]
    summary = summary_of(suite, "r")
    assert (summary["complete"], summary["cases"]) == (True, [])
    (line,) = (folder / "memory.jsonl").read_text().splitlines()
    assert json.loads(line)["status"] == "ok"
    assert summary["memory_cases"] == [json.loads(line)]
    document = json.loads(json_path.read_text())
    assert (document["benchmarks"], document["pretriton"]["run_id"]) == ([], "r")
    assert summarize_file(json_path).memory_cases[0].case_id == "raft_small_128-b1-fp32-torch"

    noted = {**json.loads(line), "notes": ["memory: 1 foreign process(es) on the GPU"]}
    (folder / "memory.jsonl").write_text(json.dumps(noted) + "\n")
    ended = suite.run(*arguments[:-1], "raft_small_128-b1", "--resume")
    (case,) = summary_of(suite, "r")["cases"]
    assert case["notes"][0] == noted["notes"][0]
    assert f"{case['id']}: {noted['notes'][0]}" in ended.stdout
    assert summary_of(suite, "r")["memory_cases"] == []


def test_frames_and_precision_of_the_command_line(suite: Suite, small_spec: Path) -> None:
    folder = suite.folder / "photos"
    folder.mkdir()
    noise = os.fsdecode(b"noise\xff.png")
    Image.effect_noise((200, 150), 60).convert("RGB").save(folder / noise)
    arguments = ("--spec", str(small_spec), "--run-id", "r", "-k", "test_latency and midas and b1")
    ended = suite.run(*arguments, "--frames", str(folder), "--dtype", "fp16")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    (case,) = summary_of(suite, "r")["cases"]
    assert case["id"] == "midas_small_64-b1-fp16-torch"
    assert (case["dtype_requested"], case["dtype_used"]) == ("fp16", "fp32")
    assert case["memory"]["source"] == "in_process"
    assert summary_of(suite, "r")["run"]["content"] == ["noise\ufffd.png", "prompts.txt"]


def test_out_of_memory_is_a_row_and_the_run_goes_on(suite: Suite, tmp_path: Path) -> None:
    spec = tmp_path / "large.yaml"
    large = SMALL_SPEC.replace("batches: [1, 2]", "batches: [1]").replace(
        "height: 64, width: 96", "height: 4096, width: 4096, batches: [4096]"
    )
    spec.write_text(large)
    ended = suite.run("--spec", str(spec), "--run-id", "r")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    cases = by_id(summary_of(suite, "r"))
    assert cases["midas_small_64-b4096-fp32-torch"]["status"] == "oom"
    assert cases["midas_small_64-b4096-fp32-torch"]["latency_ms"] is None
    assert cases["raft_small_128-b1-fp32-torch"]["status"] == "ok"
    assert summary_of(suite, "r")["complete"] is True
    assert "oom" in ended.stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--spec", "{folder}/typo.yaml"), "typo.yaml:4: runtimes[0]='torhc', expected one of onnxruntime"),
        (("--spec", "{folder}/model.yaml"), "midas_small_64.model='MiDaS_huge', expected one of MiDaS_small"),
        (("--spec", "{folder}/tiny.yaml"), "raft_small_128.height=96, expected a multiple of 32 from 128 on for raft."),
        (("--models-root", "{folder}/truncated"), "raft_small_C_T_V2-01064c6d.pth: content=damaged"),
        (("--out", "/proc/nowhere"), "--out /proc/nowhere"),
        (("-n", "2"), "-n 2: processes=several, expected one process"),
        (("-k", "nothing_like_this"), "-k nothing_like_this: cases=0"),
        (("--models-root", "{folder}/marker"), "SYNTHETIC.json: content=unreadable"),
        (("--out", "{folder}/" + "long" * 100, "--resume"), "folder=File name too long"),
        (("--run-id", "../up"), "--run-id: value='../up'"),
        (("--run-id", ""), "--run-id: value='', expected a plain folder name"),
        (("--dtype", "fp8"), "--dtype: value='fp8', expected one of fp32, tf32, fp16"),
        (("--device", "tpu"), "--device: value='tpu', expected one of auto, cuda, cpu"),
        (("--resume",), "runs=0, expected a run to go on with"),
        (("--benchmark-json=/proc/nowhere/b.json",), "--benchmark-json /proc/nowhere/b.json"),
        (("--device", "cuda"), "--device cuda: GPU=none that torch can use"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_bad_input_ends_with_one_message_and_code_2(
    suite: Suite, small_spec: Path, arguments: tuple[str, ...], says: str
) -> None:
    if "cuda" in arguments and torch.cuda.is_available():
        pytest.skip("this machine has the GPU that the test needs to be missing")
    folder = suite.folder
    (folder / "typo.yaml").write_text(SMALL_SPEC.replace("[torch]", "[torhc]"))
    (folder / "model.yaml").write_text(SMALL_SPEC.replace("MiDaS_small", "MiDaS_huge"))
    (folder / "tiny.yaml").write_text(SMALL_SPEC.replace("height: 128", "height: 96"))
    if "truncated" in "".join(arguments):
        path = Path(shutil.copytree(suite.models_root, folder / "truncated")) / RAFT_FILE
        path.write_bytes(path.read_bytes()[:100_000])
    if "marker" in "".join(arguments):
        (Path(shutil.copytree(suite.models_root, folder / "marker")) / "SYNTHETIC.json").write_text("{")
    ended = suite.run("--spec", str(small_spec), *(argument.format(folder=folder) for argument in arguments))
    assert ended.returncode == 2, ended.stdout + ended.stderr
    (message,) = [line for line in ended.stderr.splitlines() if line.startswith("ERROR: ")]
    assert says in message
    assert "Traceback" not in ended.stdout + ended.stderr
    assert not (folder / "out").exists()


def test_a_case_that_the_machine_cannot_run_is_skipped_by_name(suite: Suite, tmp_path: Path) -> None:
    spec = tmp_path / "graph.yaml"
    spec.write_text(SMALL_SPEC.replace("[torch]", "[torch-graph]").replace("[1, 2]", "[1]"))
    ended = suite.run("--spec", str(spec), "--run-id", "r", "-rs")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "runtime torch-graph needs a CUDA device" in ended.stdout
    assert summary_of(suite, "r")["cases"] == []


def test_an_optional_variant_without_weights_is_skipped_by_name(suite: Suite, tmp_path: Path) -> None:
    spec = tmp_path / "optional.yaml"
    text = SMALL_SPEC.replace("[1, 2]", "[1]").replace("model: raft_small,", "model: raft_large, optional: true,")
    spec.write_text(text)
    ended = suite.run("--spec", str(spec), "--run-id", "r", "-rs", "-k", "test_latency")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "raft_large_C_T_SKHT_V2-ff5fadd5.pth: file=missing" in ended.stdout
    spec.write_text(text.replace("optional: true,", ""))
    assert suite.run("--spec", str(spec), "--run-id", "s").returncode == 2
