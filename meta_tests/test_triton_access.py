"""Which server a run asks: addresses from the environment, or an installation."""

from __future__ import annotations

from pathlib import Path

import pytest

from fixtures.errors import InputError
from fixtures.triton.access import ServerAccess
from fixtures.triton.installation import NoServerError
from fixtures.triton.server import Endpoint, RunningServer


def endpoint(**environment: str) -> Endpoint | None:
    return ServerAccess.of(None, environment=environment).endpoint


@pytest.mark.parametrize(
    ("environment", "where"),
    [
        ({"TRITON_HTTP_URL": "h:8000"}, Endpoint("h:8000", "h:8001")),
        ({"TRITON_HTTP_URL": "http://h:8000"}, Endpoint("h:8000", "h:8001")),
        ({"TRITON_HTTP_URL": "http://h:8000/"}, Endpoint("h:8000", "h:8001")),
        ({"TRITON_HTTP_URL": "192.0.2.7:80"}, Endpoint("192.0.2.7:80", "192.0.2.7:81")),
        ({"TRITON_HTTP_URL": "h:8000", "TRITON_GRPC_URL": "g:9000"}, Endpoint("h:8000", "g:9000")),
        ({"TRITON_HTTP_URL": ""}, None),
        ({}, None),
    ],
    ids=str,
)
def test_environment_names_a_server(environment: dict[str, str], where: Endpoint | None) -> None:
    assert endpoint(**environment) == where
    assert where is None or where.hosts == (where.http.split(":")[0], where.grpc.split(":")[0])


BAD_ADDRESSES = ["h", ":8000", "h:", "h:port", "h:-1", "http://", "h:8000/v2", "https://h:8000", "grpc://h:8001"]


@pytest.mark.parametrize("value", [*BAD_ADDRESSES, "h:0", "h:65536", "h:99999999999"])
def test_malformed_address_is_refused(value: str) -> None:
    with pytest.raises(InputError) as caught:
        endpoint(TRITON_HTTP_URL=value)
    says = f"TRITON_HTTP_URL: value={value!r}, expected host:port, such as localhost:8000."
    assert str(caught.value).startswith(says)
    with pytest.raises(InputError, match=f"TRITON_GRPC_URL: value={value!r}"):
        endpoint(TRITON_HTTP_URL="h:8000", TRITON_GRPC_URL=value)


def test_access_finds_no_installation_at_the_named_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    access = ServerAccess.of("python", load_levels=True, environment={})
    assert access == ServerAccess(tmp_path / "python", None, True)
    with pytest.raises(NoServerError, match="does not exist"):
        access.require()
    with pytest.raises(NoServerError, match="does not exist"):
        access.serve(tmp_path)


def test_named_server_needs_no_installation(tmp_path: Path) -> None:
    access = ServerAccess(tmp_path / "absent", Endpoint("h:1", "h:2"))
    access.require()
    assert type(access.serve(tmp_path)) is RunningServer


@pytest.mark.parametrize("value", ["[::1]:8000"])
def test_ipv6_address_is_taken(value: str) -> None:
    assert endpoint(TRITON_HTTP_URL=value) == Endpoint("[::1]:8000", "[::1]:8001")
