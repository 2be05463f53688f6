"""Offline means that sockets refuse, and that the machine itself can still be reached."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from fixtures import offline


@pytest.fixture(autouse=True)
def _open_again() -> Iterator[None]:
    yield
    offline.open_network()


def test_the_network_refuses_by_name_and_by_address() -> None:
    offline.shut_network()
    with pytest.raises(offline.OfflineError, match=r"host='example\.com', expected none in an offline run"):
        socket.getaddrinfo("example.com", 443)
    with socket.socket() as connection, pytest.raises(offline.OfflineError, match=r"192\.0\.2\.1"):
        connection.connect(("192.0.2.1", 80))
    with socket.socket(type=socket.SOCK_DGRAM) as datagram, pytest.raises(offline.OfflineError):
        datagram.sendto(b"", ("192.0.2.1", 53))


def test_this_machine_can_be_reached() -> None:
    offline.shut_network()
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        assert client.getpeername() == server.getsockname()
    here, there = socket.socketpair()
    with here, there:
        here.sendall(b"reached")
        assert there.recv(7) == b"reached"


def test_caches_lie_under_the_root_and_hubs_stay_local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("TORCH_HOME", "HF_HOME", "DP_CLIP_WEIGHTS_DIR", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    for name in (*names, "HF_DATASETS_OFFLINE"):
        monkeypatch.setenv(name, "before")
    offline.enter(tmp_path, offline=True)
    assert [os.environ[name] for name in names] == [
        str(tmp_path / "torch_cache"),
        str(tmp_path / "hf_cache"),
        str(tmp_path / "clip_cache"),
        "1",
        "1",
    ]


def test_the_guard_can_be_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in offline.cache_environment(tmp_path):
        monkeypatch.setenv(name, "before")
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    offline.enter(tmp_path, offline=False)
    assert os.environ["HF_HUB_OFFLINE"] == "0"
    assert socket.getaddrinfo("127.0.0.1", 80)
