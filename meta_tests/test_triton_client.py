"""Clients of a real server: answers of every protocol, and regions of shared memory that are gone afterwards."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from tritonclient import http

from fixtures.records import ServedProtocol
from fixtures.triton.branches import ServedModel
from fixtures.triton.client import RequestRefused, open_client
from meta_tests.served import FAMILIES, PROTOCOLS, SAME, SmallServer, difference, frames_of

# A deprecation warning of a library is no defect of a server.
pytestmark = pytest.mark.filterwarnings("default:::tritonclient")

SHARED_MEMORY = Path("/dev/shm")


@pytest.mark.parametrize("name", FAMILIES)
def test_answers_are_those_of_local_files(small_server: SmallServer, name: str) -> None:
    """Over every protocol, for two requests whose answers differ; of the ensemble and of the fused file."""
    branch = small_server.branches[name]
    expected = [small_server.local_answer(branch, frames_of(branch, seed)) for seed in (0, 1)]
    assert difference(expected[1], expected[0]) > 100 * SAME, "a swap of these answers would go unseen"
    for protocol in PROTOCOLS:
        with open_client(small_server.endpoint, protocol) as client:
            answers = [client.infer(branch.models["ensemble"], frames_of(branch, seed)) for seed in (0, 1)]
            fused = client.infer(branch.models["fused"], frames_of(branch))
        assert answers[0].shape == branch.outputs[0].shape
        assert answers[0].dtype == np.float32
        if protocol == "grpc+shm":  # the region is gone: to read a view of it would end this process
            assert all(answer.flags.owndata for answer in (*answers, fused))
        for answer, local in zip((*answers, fused), (*expected, expected[0]), strict=True):
            assert difference(answer, local) < SAME, protocol


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_refusal_has_the_servers_message(small_server: SmallServer, protocol: ServedProtocol) -> None:
    model = small_server.branches["midas"].models["ensemble"]
    before = regions()
    unknown = ServedModel("unknown", model.inputs, model.outputs)
    with open_client(small_server.endpoint, protocol) as client, pytest.raises(RequestRefused, match="unknown"):
        client.infer(unknown, frames_of(small_server.branches["midas"]))
    assert regions() == before


def regions() -> set[str]:
    return {path.name for path in SHARED_MEMORY.glob(f"pretriton_{os.getpid()}_*")}


def test_regions_of_shared_memory_are_gone_with_the_client(small_server: SmallServer) -> None:
    before, branch = regions(), small_server.branches["raft"]
    with http.InferenceServerClient(small_server.endpoint.http) as management:
        with open_client(small_server.endpoint, "grpc+shm") as client:
            client.infer(branch.models["ensemble"], frames_of(branch))
            client.infer(branch.models["ensemble"], frames_of(branch, 1))
            assert len(regions() - before) == 3  # two frames and an answer, reused by the second request
            assert len(management.get_system_shared_memory_status()) == 3
        assert regions() == before
        assert management.get_system_shared_memory_status() == []
