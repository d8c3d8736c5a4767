"""Every way to say who one is, and the permissions that ship with the project."""

from __future__ import annotations

import base64
import json
import os
import re
import secrets
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nkeys
import pytest
from servers import REPOSITORY, Hub, Nats, eventually

from central_hub import CentralHubClient, ConfigAPI, ConfigClient, HubUnavailable
from central_hub.connection import Connection
from central_hub.errors import BadOption, NotAuthorized
from central_hub.options import Options

Servers = Callable[..., Nats]


async def connects(nats: Nats, env: dict[str, str] | None = None, **args: Any) -> None:
    """Whether a message comes back from there."""
    connection = Connection(Options.read(nats.url, args, env or {}))  # type: ignore[arg-type]
    try:
        session = await connection.session(10)
        assert await session.round_trip(5)
    finally:
        await connection.close()


async def is_refused(nats: Nats, why: str, **args: Any) -> None:
    connection = Connection(Options.read(nats.url, args, {}))  # type: ignore[arg-type]
    try:
        with pytest.raises(HubUnavailable, match=f"(?i){why}") as refused:
            await connection.session(3)
        for value in args.values():
            assert str(value) not in str(refused.value), "secrets stay out of messages"
    finally:
        await connection.close()


async def test_user_and_password(private_nats: Servers, tmp_path: Path) -> None:
    nats = private_nats("authorization { user: me, password: sesame }\n")
    nats.start()
    await connects(nats, user="me", password="sesame")
    (tmp_path / "password").write_text("sesame\n")
    await connects(nats, {"CENTRAL_HUB_NATS_USER": "me", "CENTRAL_HUB_NATS_PASSWORD_FILE": str(tmp_path / "password")})
    await is_refused(nats, "authorization violation", user="me", password="barley")
    await is_refused(nats, "authorization violation")


async def test_a_wrong_password_is_said_at_once_and_may_be_put_right(private_nats: Servers) -> None:
    nats = private_nats("authorization { user: me, password: other }\n")
    nats.start()
    async with CentralHubClient(nats.url, user="me", password="sesame", timeout=60) as hub:
        with pytest.raises(NotAuthorized, match="refuses these credentials"):
            await hub.health()
        nats.stop()
        nats.lines = "authorization { user: me, password: sesame }\n"
        nats.start()
        assert await hub.connection.session(None)


async def test_token(private_nats: Servers) -> None:
    nats = private_nats("authorization { token: sesame }\n")
    nats.start()
    await connects(nats, token="sesame")
    await connects(nats, {"CENTRAL_HUB_NATS_TOKEN": "sesame"})
    await is_refused(nats, "authorization violation", token="barley")


def key(kind: int) -> nkeys.KeyPair:
    return nkeys.from_seed(nkeys.encode_seed(os.urandom(32), kind))


def text(value: bytes | bytearray) -> str:
    return bytes(value).decode()


async def test_nkey(private_nats: Servers, tmp_path: Path) -> None:
    right, wrong = key(nkeys.PREFIX_BYTE_USER), key(nkeys.PREFIX_BYTE_USER)
    nats = private_nats(f"authorization {{ users: [{{nkey: {text(right.public_key)}}}] }}\n")
    nats.start()
    await connects(nats, nkey_seed=text(right.seed))
    (tmp_path / "seed").write_text(text(right.seed) + "\n")
    await connects(nats, {"CENTRAL_HUB_NATS_NKEY_SEED_FILE": str(tmp_path / "seed")})
    await is_refused(nats, "authorization violation", nkey_seed=text(wrong.seed))
    with pytest.raises(BadOption, match="58 characters"):
        CentralHubClient(nats.url, nkey_seed="SUAAAA")


def signed(signer: nkeys.KeyPair, subject: nkeys.KeyPair, kind: str, **more: Any) -> str:
    """A token as a NATS operator's tools make them."""

    def encoded(data: bytes) -> str:
        return base64.urlsafe_b64encode(data).decode().rstrip("=")

    claims = {
        "jti": secrets.token_hex(8),
        "iat": 1767225600,
        "iss": text(signer.public_key),
        "name": kind,
        "sub": text(subject.public_key),
        "nats": {"type": kind, "version": 2, **more},
    }
    header = b'{"typ":"JWT","alg":"ed25519-nkey"}'
    body = f"{encoded(header)}.{encoded(json.dumps(claims).encode())}"
    return f"{body}.{encoded(signer.sign(body.encode()))}"


async def test_a_credentials_file_that_is_renewed(private_nats: Servers, tmp_path: Path) -> None:
    operator, account = key(nkeys.PREFIX_BYTE_OPERATOR), key(nkeys.PREFIX_BYTE_ACCOUNT)
    system, stranger = key(nkeys.PREFIX_BYTE_ACCOUNT), key(nkeys.PREFIX_BYTE_ACCOUNT)
    limits = dict.fromkeys(("subs", "data", "payload", "imports", "exports", "conn", "leaf"), -1) | {"wildcards": True}
    tokens = {name: signed(operator, name, "account", limits=limits) for name in (account, system)}
    nats = private_nats(
        f"operator: {signed(operator, operator, 'operator')}\nsystem_account: {text(system.public_key)}\n"
        "resolver: MEMORY\nresolver_preload: {"
        + ", ".join(f"{text(name.public_key)}: {token}" for name, token in tokens.items())
        + "}\n"
    )
    nats.start()
    file = tmp_path / "me.creds"

    def write(signer: nkeys.KeyPair) -> None:
        user = key(nkeys.PREFIX_BYTE_USER)
        token = signed(signer, user, "user", subs=-1, data=-1, payload=-1)
        file.write_text(
            f"-----BEGIN NATS USER JWT-----\n{token}\n------END NATS USER JWT------\n\n"
            f"-----BEGIN USER NKEY SEED-----\n{text(user.seed)}\n------END USER NKEY SEED------\n"
        )

    write(account)
    await connects(nats, creds=file)
    await connects(nats, {"CENTRAL_HUB_NATS_CREDS": str(file)})
    write(stranger)
    await is_refused(nats, "authorization violation", creds=file)
    connection = Connection(Options.read(nats.url, {"creds": file}, {}))
    with pytest.raises(NotAuthorized):
        await connection.session(5)
    write(account)
    assert await connection.session(None)
    await connection.close()


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """An authority, what it signed for this machine and for a client, and an authority that signed none of it."""
    folder = tmp_path_factory.mktemp("certificates")
    folder.chmod(0o755)

    def openssl(*args: str) -> None:
        subprocess.run(["openssl", *args], cwd=folder, check=True, capture_output=True)

    def request(name: str, *args: str) -> None:
        curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", f"{name}.key"]
        openssl("req", "-subj", f"/CN={name}", *curve, *args)

    for name in ("ca", "stranger"):
        request(name, "-x509", "-days", "2", "-out", f"{name}.pem")
    for name, alternative in (("server", "IP:127.0.0.1"), ("client", "DNS:client.example")):
        (folder / "extensions").write_text(f"subjectAltName={alternative}\n")
        request(name, "-new", "-out", "request.pem")
        signing = ["-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-extfile", "extensions", "-days", "2"]
        openssl("x509", "-req", "-in", "request.pem", *signing, "-out", f"{name}.pem")
    return lambda file: str(folder / file)


async def test_tls(private_nats: Servers, certificates: Callable[[str], str]) -> None:
    nats = private_nats(
        f'tls {{ cert_file: "{certificates("server.pem")}", key_file: "{certificates("server.key")}" }}\n'
    )
    nats.start()
    await connects(nats, tls_ca=certificates("ca.pem"))
    await connects(nats, {"CENTRAL_HUB_NATS_TLS_CA": certificates("ca.pem"), "CENTRAL_HUB_NATS_TLS_REQUIRED": "true"})
    await is_refused(nats, "certificate verify failed", tls_ca=certificates("stranger.pem"))
    await is_refused(nats, "certificate verify failed")


async def test_mutual_tls(private_nats: Servers, certificates: Callable[[str], str]) -> None:
    nats = private_nats(
        f'tls {{ cert_file: "{certificates("server.pem")}", key_file: "{certificates("server.key")}", '
        f'ca_file: "{certificates("ca.pem")}", verify: true }}\n'
    )
    nats.start()
    own = {"tls_cert": certificates("client.pem"), "tls_key": certificates("client.key")}
    await connects(nats, tls_ca=certificates("ca.pem"), **own)
    await is_refused(nats, "", tls_ca=certificates("ca.pem"))


async def test_nothing_is_said_to_a_server_without_tls(private_nats: Servers) -> None:
    nats = private_nats("authorization { user: me, password: sesame }\ndebug: true\ntrace: true\n")
    nats.start()
    await is_refused(nats, "doesn't offer TLS", user="me", password="sesame", tls_required=True)
    nats.url = nats.url.replace("nats://", "tls://")
    await is_refused(nats, "doesn't offer TLS", user="me", password="sesame")
    assert "CONNECT" not in nats.log.read_text()
    nats.url = nats.url.replace("tls://", "nats://")
    await connects(nats, user="me", password="sesame")
    assert "CONNECT" in nats.log.read_text(), "this is where it would have shown"


# --- the roles that ship ----------------------------------------------------------------------------------------------


@pytest.fixture
async def roles(private_nats: Servers, private_hub: Callable[..., Hub]) -> tuple[Nats, dict[str, str]]:
    """A server with the users of deploy/nats/roles.conf, and a hub with its two identities; passwords by user."""
    lines = (REPOSITORY / "deploy" / "nats" / "roles.conf").read_text()
    users = dict(re.findall(r"user: (\S+)\s+password: \$(\w+)", lines))
    passwords = {user: "p" + secrets.token_hex(8) for user in users}
    nats = private_nats("".join(f"{users[user]}: {passwords[user]}\n" for user in users) + lines)
    nats.start()
    hub = private_hub(
        nats.url,
        CENTRAL_HUB_NATS_USER="hub-answers",
        CENTRAL_HUB_NATS_PASSWORD=passwords["hub-answers"],
        CENTRAL_HUB_NATS_INBOX_PREFIX="_INBOX.hub-answers",
        CENTRAL_HUB_NATS_WRITER_USER="hub-writes",
        CENTRAL_HUB_NATS_WRITER_PASSWORD=passwords["hub-writes"],
        CENTRAL_HUB_NATS_WRITER_INBOX_PREFIX="_INBOX.hub-writes",
    )
    hub.start()
    async with CentralHubClient(nats.url, **identity("health", passwords)) as health:

        async def well() -> bool:
            try:
                return bool((await health.health())["status"] == "healthy")
            except HubUnavailable:
                return False

        await eventually(well, 30)
    return nats, passwords


def identity(user: str, passwords: dict[str, str]) -> Any:
    return {"user": user, "password": passwords[user], "inbox_prefix": f"_INBOX.{user}"}


async def test_the_credentials_of_a_service_suffice(
    roles: tuple[Nats, dict[str, str]], caplog: pytest.LogCaptureFixture
) -> None:
    nats, passwords = roles
    service = "tick-aggregator"
    async with (
        CentralHubClient(nats.url, **identity(service, passwords)) as hub,
        ConfigAPI(nats.url, **identity("operator", passwords)) as api,
    ):
        await api.update_config(service, {"n": 1})
        await hub.register_service(service, host="h", port=1)
        hub.start_heartbeats()
        async with ConfigClient(service, hub=hub) as client:
            assert (client.config, client.source) == ({"n": 1}, "hub")
            await eventually(lambda: client._watch.is_live)
            await api.update_config(service, {"n": 2})
            await eventually(lambda: client.config == {"n": 2})

            async def converged() -> bool:
                return bool((await api.status(service))["converged"])

            await eventually(converged)
            client._watch.rebuild("of a test")
            await eventually(lambda: client._watch.is_live)
        assert await hub.get_services("healthy", service_name=service)
        assert await hub.get_service(service)
        view = await hub.watch_services()
        await eventually(lambda: view.is_live)
        await eventually(lambda: view.get(service))
        await hub.deregister(service)
        await eventually(lambda: view.get(service) is None)
    assert [record.message for record in caplog.records if "refuses" in record.message] == []


async def test_what_permissions_forbid_is_said_at_once(roles: tuple[Nats, dict[str, str]]) -> None:
    nats, passwords = roles
    mine = identity("tick-aggregator", passwords)
    async with CentralHubClient(nats.url, timeout=60, **mine) as hub:
        with pytest.raises(NotAuthorized, match=r"publish to hub\.heartbeat\.other"):
            await hub.heartbeat("other")
        with pytest.raises(NotAuthorized, match=r"publish to hub\.config\.set\.tick-aggregator"):
            await ConfigAPI(hub=hub).update_config("tick-aggregator", {})
    # The mistake that is made most.
    async with CentralHubClient(nats.url, timeout=60, **mine | {"inbox_prefix": "_INBOX"}) as hub:
        with pytest.raises(NotAuthorized, match="inbox_prefix"):
            await hub.get_services()
        with pytest.raises(NotAuthorized, match="inbox_prefix"):
            await hub.get_services()
