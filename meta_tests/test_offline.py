"""fixtures/offline.py: sockets refuse other machines, except those that a person has named."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fixtures import offline


@pytest.fixture(autouse=True)
def _open_again() -> Iterator[None]:
    yield
    offline.open_network()


def test_network_is_refused_by_name_and_by_address() -> None:
    offline.shut_network()
    with pytest.raises(offline.OfflineError, match=r"host='example\.com', expected none in an offline run"):
        socket.getaddrinfo("example.com", 443)
    with socket.socket() as connection, pytest.raises(offline.OfflineError, match=r"192\.0\.2\.1"):
        connection.connect(("192.0.2.1", 80))
    with socket.socket(type=socket.SOCK_DGRAM) as datagram, pytest.raises(offline.OfflineError):
        datagram.sendto(b"", ("192.0.2.1", 53))


def test_this_machine_is_reached() -> None:
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


def test_network_stays_open_without_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in offline.cache_environment(tmp_path):
        monkeypatch.setenv(name, "before")
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    offline.enter(tmp_path, offline=False)
    assert os.environ["HF_HUB_OFFLINE"] == "0"
    assert socket.getaddrinfo("127.0.0.1", 80)


# --- hosts that a person has named ---

NAMED, ADDRESSES = "triton.invalid", ("192.0.2.7", "2001:db8::7")  # reserved for documentation: no machine has them


class _Resolver:
    """Name → addresses, in place of the machine's own resolver."""

    def __init__(self, known: dict[str, tuple[str, ...]]) -> None:
        self._known = known
        self.asked: list[str] = []

    def __call__(self, host: str, port: int | None, *_: Any) -> list[tuple[Any, ...]]:
        self.asked.append(host)
        if host not in self._known:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in self._known[host]]


@pytest.fixture
def resolver(monkeypatch: pytest.MonkeyPatch) -> _Resolver:
    """A test allows hosts for itself alone, and asks no name server."""
    monkeypatch.setattr(offline._Guard, "allowed", set())
    found = _Resolver({NAMED: ADDRESSES})
    monkeypatch.setattr(socket, "getaddrinfo", found)
    return found


def refusal(event: str, host: str) -> str:
    """What becomes of reaching a host; the guard sees the event that Python raises, and nothing is sent."""
    arguments = {
        "socket.connect": (None, (host, 8000)),
        "socket.sendto": (None, (host, 8000)),
        "socket.getaddrinfo": (host, 8000, 0, 0, 0),
        "socket.gethostbyname": (host,),
    }
    with pytest.raises(offline.OfflineError) as caught:
        offline._audit(event, arguments[event])
    return str(caught.value)


EVENTS = ["socket.connect", "socket.sendto", "socket.getaddrinfo", "socket.gethostbyname"]


@pytest.mark.usefixtures("resolver")
@pytest.mark.parametrize("host", [NAMED, *ADDRESSES])
@pytest.mark.parametrize("event", EVENTS)
def test_named_host_is_refused_until_it_is_allowed(event: str, host: str) -> None:
    offline.shut_network()
    assert f"network: host={host!r}, expected none in an offline run" in refusal(event, host)
    offline.open_network()
    offline.allow([NAMED])
    offline.shut_network()
    arguments = (host,) if event.startswith("socket.get") else (None, (host, 8000))
    offline._audit(event, arguments)


@pytest.mark.usefixtures("resolver")
@pytest.mark.parametrize("host", ["other.invalid", "192.0.2.8", "2001:db8::8", "sub.triton.invalid", "192.0.2.70"])
def test_other_host_is_refused_beside_the_allowed_one(host: str) -> None:
    offline.allow([NAMED])
    offline.shut_network()
    assert f"host={host!r}" in refusal("socket.connect", host)
    assert f"host={host!r}" in refusal("socket.getaddrinfo", host)


@pytest.mark.usefixtures("resolver")
def test_real_socket_refuses_other_host_beside_the_allowed_one() -> None:
    offline.allow([NAMED])
    offline.shut_network()
    with socket.socket() as connection, pytest.raises(offline.OfflineError, match=r"192\.0\.2\.8"):
        connection.connect(("192.0.2.8", 80))
    with socket.socket(type=socket.SOCK_DGRAM) as datagram, pytest.raises(offline.OfflineError):
        datagram.sendto(b"", ("192.0.2.8", 53))


def test_name_without_an_address_is_allowed_by_name(resolver: _Resolver) -> None:
    offline.allow(["unknown.invalid"])
    offline.shut_network()
    assert resolver.asked == ["unknown.invalid"]
    offline._audit("socket.getaddrinfo", ("unknown.invalid", 8000, 0, 0, 0))
    refusal("socket.connect", ADDRESSES[0])


@pytest.mark.usefixtures("resolver")
def test_allowed_host_may_be_named_in_bytes() -> None:
    offline.allow([NAMED])
    offline.shut_network()
    offline._audit("socket.getaddrinfo", (NAMED.encode(), 8000, 0, 0, 0))


@pytest.mark.usefixtures("resolver")
def test_allowing_no_host_allows_none() -> None:
    offline.allow([])
    offline.shut_network()
    refusal("socket.connect", ADDRESSES[0])
