"""A server that a person has named is reached although the network is shut; nothing else is."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import pytest

from fixtures import offline

NAMED, ADDRESSES = "triton.invalid", ("192.0.2.7", "2001:db8::7")  # reserved: nobody has them


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


@pytest.fixture(autouse=True)
def resolver(monkeypatch: pytest.MonkeyPatch) -> Iterator[_Resolver]:
    """Tests allow hosts for themselves alone, and ask no name server."""
    monkeypatch.setattr(offline._Guard, "allowed", set())
    with monkeypatch.context() as patch:
        found = _Resolver({NAMED: ADDRESSES})
        patch.setattr(socket, "getaddrinfo", found)
        yield found
    offline.open_network()


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


@pytest.mark.parametrize("host", [NAMED, *ADDRESSES])
@pytest.mark.parametrize("event", EVENTS)
def test_a_named_host_is_refused_until_it_is_allowed(event: str, host: str) -> None:
    offline.shut_network()
    assert f"network: host={host!r}, expected none in an offline run" in refusal(event, host)
    offline.open_network()
    offline.allow([NAMED])
    offline.shut_network()
    arguments = (host,) if event.startswith("socket.get") else (None, (host, 8000))
    offline._audit(event, arguments)


@pytest.mark.parametrize("host", ["other.invalid", "192.0.2.8", "2001:db8::8", "sub.triton.invalid", "192.0.2.70"])
def test_others_are_refused_beside_it(host: str) -> None:
    offline.allow([NAMED])
    offline.shut_network()
    assert f"host={host!r}" in refusal("socket.connect", host)
    assert f"host={host!r}" in refusal("socket.getaddrinfo", host)


def test_a_real_socket_refuses_others_beside_the_named_one() -> None:
    offline.allow([NAMED])
    offline.shut_network()
    with socket.socket() as connection, pytest.raises(offline.OfflineError, match=r"192\.0\.2\.8"):
        connection.connect(("192.0.2.8", 80))
    with socket.socket(type=socket.SOCK_DGRAM) as datagram, pytest.raises(offline.OfflineError):
        datagram.sendto(b"", ("192.0.2.8", 53))


def test_a_name_that_nobody_knows_is_allowed_by_name(resolver: _Resolver) -> None:
    offline.allow(["unknown.invalid"])
    offline.shut_network()
    assert resolver.asked == ["unknown.invalid"]
    offline._audit("socket.getaddrinfo", ("unknown.invalid", 8000, 0, 0, 0))
    refusal("socket.connect", ADDRESSES[0])


def test_an_allowed_host_may_be_named_in_bytes() -> None:
    offline.allow([NAMED])
    offline.shut_network()
    offline._audit("socket.getaddrinfo", (NAMED.encode(), 8000, 0, 0, 0))


def test_nothing_is_allowed_by_allowing_nothing() -> None:
    offline.allow([])
    offline.shut_network()
    refusal("socket.connect", ADDRESSES[0])
