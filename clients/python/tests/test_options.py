"""Arguments and environment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from central_hub import CentralHubClient, ConfigClient
from central_hub.errors import BadOption
from central_hub.options import Options


def read(base_url: Any = None, environ: dict[str, str] | None = None, **given: Any) -> Options:
    return Options.read(base_url, given, {f"CENTRAL_HUB_{name}": value for name, value in (environ or {}).items()})  # type: ignore[arg-type]


def test_addresses() -> None:
    assert read().servers == ("nats://127.0.0.1:4222",)
    assert read(environ={"NATS_URL": "nats://a:1, b:2"}).servers == ("nats://a:1", "nats://b:2")
    assert read("tls://c:3", {"NATS_URL": "nats://a:1"}).servers == ("tls://c:3",)
    assert read(["nats://a", "nats://b"]).servers == ("nats://a", "nats://b")
    with pytest.raises(BadOption, match="over NATS, not over http"):
        read("http://central-hub:8001")
    for url in ("nats://me:sesame@a:1", "sesame@a", ["nats://a", "nats://sesame@b"]):
        with pytest.raises(BadOption, match="CENTRAL_HUB_NATS_USER") as refused:
            read(url)
        assert "sesame" not in str(refused.value)
    with pytest.raises(BadOption, match="no server"):
        read(" , ")


def test_identities(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("sesame\r\n")
    file = str(tmp_path / "secret")
    assert read(environ={"NATS_TOKEN_FILE": file}).token == "sesame"
    mine = read(environ={"NATS_USER": "me", "NATS_PASSWORD": "sesame"})
    assert (mine.user, mine.password) == ("me", "sesame")
    assert "sesame" not in repr(mine)
    # An argument names another: the environment's is left out.
    other = read(environ={"NATS_USER": "me", "NATS_PASSWORD": "sesame"}, token="t")
    assert (other.user, other.password, other.token) == (None, None, "t")
    for environ, why in (
        ({"NATS_USER": "me"}, "belong together"),
        ({"NATS_PASSWORD": "sesame"}, "belong together"),
        ({"NATS_TOKEN": "t", "NATS_NKEY_SEED": "s"}, "several identities"),
        ({"NATS_TOKEN": "t", "NATS_TOKEN_FILE": file}, "both set"),
        ({"NATS_TOKEN_FILE": "/nowhere/at/all"}, "can't be read: No such file"),
        ({"NATS_CREDS": "/nowhere/at/all"}, "creds: /nowhere/at/all can't be read"),
        ({"NATS_TLS_CERT": file}, "belong together"),
        ({"NATS_TLS_REQUIRED": "perhaps"}, "must be true or false"),
        ({"NATS_INBOX_PREFIX": "_INBOX.>"}, "inbox_prefix must be a plain subject"),
        ({"SUBJECT_PREFIX": "a b"}, "subject_prefix must be a plain subject"),
        ({"BUCKET_PREFIX": "a.b"}, "bucket_prefix"),
    ):
        with pytest.raises(BadOption, match=why) as refused:
            read(environ=environ)
        assert "sesame" not in str(refused.value)


def test_prefixes_and_flags() -> None:
    fleet = read(
        environ={
            "SUBJECT_PREFIX": "east",
            "BUCKET_PREFIX": "west",
            "NATS_INBOX_PREFIX": "_INBOX.me",
            "NATS_TLS_REQUIRED": "1",
        }
    )
    assert (fleet.subject_prefix, fleet.bucket_prefix, fleet.inbox_prefix) == ("east", "west", "_INBOX.me")
    assert fleet.tls_required
    assert read(subject_prefix="north").subject_prefix == "north"
    assert not read(environ={"NATS_TLS_REQUIRED": "true"}, tls_required=False).tls_required
    empty = read(environ={"NATS_URL": "", "SUBJECT_PREFIX": "", "NATS_TOKEN": ""})
    assert (empty.servers, empty.subject_prefix, empty.token) == (("nats://127.0.0.1:4222",), "hub", None)


def test_mistakes_of_the_caller() -> None:
    with pytest.raises(TypeError, match="colour"):
        CentralHubClient(colour="red")  # type: ignore[call-arg]
    hub = CentralHubClient()
    with pytest.raises(BadOption, match="its own connection"):
        ConfigClient("a", hub=hub, base_url="nats://a")
    with pytest.raises(BadOption, match="its own connection"):
        ConfigClient("a", hub=hub, token="t")
