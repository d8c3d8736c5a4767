"""A connection to NATS that comes back by itself, for as long as somebody wants it.

nats-py can reconnect too, but then it replays what was asked long ago, gives up for good when a password is wrong
once, and waits in step with the rest of the fleet. Here each connection is a `Session` with one nats-py client that
never reconnects; when it ends it is thrown away, and a new one is made from the options as they are then.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import ssl
from collections.abc import Callable
from typing import Any

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg

from .backoff import Backoff
from .errors import BadOption, HubUnavailable, NotAuthorized, TooLarge
from .options import Options
from .waiting import happens, lasting, stop, within

log = logging.getLogger("central_hub")

_HANDSHAKE = 2
"""Seconds that a server has for each step of the handshake."""

_PING = 5
"""Seconds between signs of life; after two that weren't answered the session ends."""

_STABLE = 10.0
"""A session that lived this many seconds was a success: the next failure is a new one."""

_REFUSED = re.compile(r'permissions violation for (publish|subscription) to "([^"]*)"')


class _Client(Client):
    """A client that can insist on TLS, which nats-py leaves to the server."""

    insist_on_tls = False

    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:
        if initial_connection and self.insist_on_tls:
            if not (info.get("tls_required") or info.get("tls_available")):
                raise nats.errors.SecureConnWantedError
            info["tls_required"] = True
        await super()._process_info(info, initial_connection)


class Session:
    """One connection to one server, from its handshake to its end."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.ended = asyncio.Event()
        """Set when nothing can be sent or heard any more."""
        self._asking: dict[str, set[asyncio.Future[None]]] = {}
        self._inbox_refused = False
        self._trip: asyncio.Future[None] | None = None

    @property
    def is_alive(self) -> bool:
        return not self.ended.is_set() and self.client.is_connected

    async def request(self, subject: str, payload: bytes, timeout: float) -> Msg:
        """Asks and waits for the answer, at most ``timeout`` seconds.

        Raises `HubUnavailable` when none comes (at once when nobody listens, or the session ends), `NotAuthorized`
        when NATS forbids it, `TooLarge` when the server takes no message of this size.
        """
        refused: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiting = self._asking.setdefault(subject.lower(), set())
        waiting.add(refused)
        asking = asyncio.ensure_future(self.client.request(subject, payload, timeout=timeout))
        ended = asyncio.ensure_future(self.ended.wait())
        try:
            if self._inbox_refused:
                raise _inbox_is_refused()
            waits: set[asyncio.Future[Any]] = {asking, ended, refused}
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            if refused.done():
                refused.result()
            if asking.done():
                return asking.result()
            raise HubUnavailable(f"NATS was lost before an answer came on {subject}")
        except nats.errors.NoRespondersError:
            raise HubUnavailable(
                f"nobody listens on {subject}: is the hub running, and is the subject prefix right?"
            ) from None
        except nats.errors.TimeoutError:
            raise HubUnavailable(
                f"no answer on {subject} within {timeout:.3g} s; it may have been done all the same"
            ) from None
        except nats.errors.MaxPayloadError:
            limit = self.client.max_payload
            text = f"body: the request is over the {limit} bytes that NATS takes"
            raise TooLarge("too_large", text, {"field": "body", "limit": limit}) from None
        except (nats.errors.Error, OSError) as error:
            raise HubUnavailable(f"NATS was lost before an answer came on {subject}: {error}") from None
        finally:
            asking.cancel()
            ended.cancel()
            refused.cancel()
            if asking.done() and not asking.cancelled():
                asking.exception()  # seen
            waiting.discard(refused)
            if not waiting:
                self._asking.pop(subject.lower(), None)

    async def round_trip(self, timeout: float) -> bool:
        """Whether the server answers within ``timeout`` seconds. What it had sent before has been handed on by then."""
        # The flush itself is never given up: an answer that nobody waits for any more ends nats-py's reading for good.
        if self._trip is None or self._trip.done():
            self._trip = asyncio.ensure_future(self.client.flush(24 * 3600))
        done, _ = await asyncio.wait({self._trip}, timeout=timeout)
        return bool(done) and self._trip.exception() is None

    def note_error(self, error: Exception) -> None:
        """Takes what the server says between the answers: a permission that is missing shows nowhere else."""
        found = _REFUSED.search(str(error).lower())
        if not found:
            log.debug("NATS: %s", error)
            return
        log.error("NATS refuses a %s: %s", *found.groups())
        verb, subject = found.groups()
        if verb == "publish":
            for waiting in self._asking.get(subject, ()):
                if not waiting.done():
                    waiting.set_exception(NotAuthorized(f"NATS doesn't let this user publish to {subject}"))
        else:
            self._inbox_refused = True
            for waiting in [one for some in self._asking.values() for one in some]:
                if not waiting.done():
                    waiting.set_exception(_inbox_is_refused())

    async def close(self) -> None:
        """Ends it, quietly and within seconds, and leaves no task behind."""
        self.ended.set()
        with contextlib.suppress(Exception):
            await within(2, self.client.close())
        await stop(self._trip)
        # A close that itself meets the broken pipe stops half way and leaves the subscriptions' tasks.
        for subscription in list(self.client._subs.values()):
            subscription._stop_processing()


def _inbox_is_refused() -> NotAuthorized:
    return NotAuthorized(
        "NATS doesn't let this user listen for answers: give inbox_prefix (CENTRAL_HUB_NATS_INBOX_PREFIX), "
        "often _INBOX.<user>"
    )


class Connection:
    """Sessions, one after another. It begins with the first use and needs a running event loop from then on."""

    def __init__(self, options: Options, purpose: str = "client") -> None:
        self.options = options
        self._purpose = purpose
        self._servers = list(options.servers)
        self._session: Session | None = None
        self._supervisor: asyncio.Task[None] | None = None
        self.closed = asyncio.Event()
        """Set when it has ended for good."""
        self._attempt = 0
        self._refused_attempt = -1
        self._why = "it hasn't been tried yet"
        self._changed = asyncio.Event()
        self._on_session: list[Callable[[], None]] = []
        _check_keys(options)

    @property
    def is_up(self) -> bool:
        """Whether the server can be talked to now, as far as this side knows."""
        return self._session is not None and self._session.is_alive

    def on_session(self, hook: Callable[[], None]) -> None:
        """Has ``hook`` called at the beginning of each session."""
        self._on_session.append(hook)

    def off_session(self, hook: Callable[[], None]) -> None:
        """Takes a hook away; one that isn't there is no mistake."""
        with contextlib.suppress(ValueError):
            self._on_session.remove(hook)

    async def session(self, timeout: float | None = None) -> Session:
        """The session that is alive now, or the next one.

        Raises `HubUnavailable` when there is none within ``timeout`` seconds (``None``: waits for ever),
        `NotAuthorized` as soon as a server refuses the credentials.
        """
        loop = asyncio.get_running_loop()
        deadline = None if timeout is None else loop.time() + timeout
        attempt_before = self._attempt
        while True:
            if self.closed.is_set():
                raise HubUnavailable("this client is closed")
            self._supervise()
            if self._session is not None and self._session.is_alive:
                return self._session
            if deadline is not None and self._refused_attempt > attempt_before:
                raise NotAuthorized(f"{self._place()} refuses these credentials: {self._why}")
            remaining = None if deadline is None else deadline - loop.time()
            if not await happens(self._changed, remaining):
                raise HubUnavailable(f"{self._place()} can't be reached: {self._why}")

    async def request(self, subject: str, payload: bytes, timeout: float) -> Msg:
        """Asks over the session of the moment; see `Session.request`. ``timeout`` covers the wait for a session,
        too."""
        began = asyncio.get_running_loop().time()
        session = await self.session(timeout)
        left = timeout - (asyncio.get_running_loop().time() - began)
        return await session.request(subject, payload, max(left, 0.001))

    async def close(self) -> None:
        """Ends for good. Who still waits gets `HubUnavailable`."""
        self.closed.set()
        self._pulse()
        if self._supervisor is not None:
            await stop(self._supervisor)

    def _place(self) -> str:
        return f"NATS at {', '.join(self.options.servers)}"

    def _supervise(self) -> None:
        if self._supervisor is None or self._supervisor.done():
            self._supervisor = lasting(self._run, f"connection of {self._purpose}")

    def _pulse(self) -> None:
        """Wakes all that wait for something to change."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def _run(self) -> None:
        backoff = Backoff(0.1, 1.0)
        loop = asyncio.get_running_loop()
        session: Session | None = None
        try:
            while True:
                self._attempt += 1
                try:
                    session = await self._open()
                except Exception as error:  # Whatever it is, the next attempt is made by a new client.
                    self._note_failure(error)
                    await asyncio.sleep(backoff.next())
                    continue
                began = loop.time()
                self._begin(session)
                # nats-py doesn't call back when its close fails half way.
                while not session.client.is_closed:
                    if await happens(session.ended, 0.5):
                        break
                self._session = None
                self._why = "the connection was lost"
                await session.close()
                log.warning("lost NATS; connecting again")
                if loop.time() - began > _STABLE:
                    backoff.reset()
                await asyncio.sleep(backoff.next())
        finally:
            self._session = None
            if session is not None:
                await session.close()

    def _begin(self, session: Session) -> None:
        self._session = session
        url = session.client.connected_url
        log.info("connected to NATS at %s", url.netloc if url else "?")
        known = {server.split("://")[-1] for server in self._servers}
        for found in session.client.discovered_servers:
            if found.netloc not in known:
                self._servers.append(f"{found.scheme}://{found.netloc}")
        self._pulse()
        for hook in list(self._on_session):
            try:
                hook()
            except Exception:
                log.exception("what was to be done with a new session")

    def _note_failure(self, error: Exception) -> None:
        why = str(error) or type(error).__name__
        if why != self._why:
            log.warning("%s can't be reached: %s", self._place(), why)
        self._why = why
        if "authorization violation" in why.lower() or "authentication" in why.lower():
            self._refused_attempt = self._attempt
        self._pulse()

    async def _open(self) -> Session:
        """One attempt, over all servers in random order."""
        options = self.options
        client = _Client()
        session = Session(client)
        client.insist_on_tls = options.tls_required or any(server.startswith("tls://") for server in options.servers)
        failures: list[Exception] = []

        async def on_error(error: Exception) -> None:
            failures.append(error)
            session.note_error(error)

        async def on_close() -> None:
            session.ended.set()

        handshake = client.connect(
            servers=list(self._servers),
            name=f"central-hub {self._purpose}",
            error_cb=on_error,
            closed_cb=on_close,
            allow_reconnect=False,
            max_reconnect_attempts=1,
            reconnect_time_wait=0,
            connect_timeout=_HANDSHAKE,
            ping_interval=_PING,
            max_outstanding_pings=2,
            inbox_prefix=options.inbox_prefix,
            **_credentials(options),
        )
        connecting = asyncio.ensure_future(handshake)
        try:
            done, _ = await asyncio.wait({connecting}, timeout=5.0 * _HANDSHAKE * len(self._servers))
            if done:
                connecting.result()
            if not done or not await session.round_trip(_HANDSHAKE):
                raise HubUnavailable("the handshake took too long")
        except BaseException as error:
            await stop(connecting)
            await session.close()
            if isinstance(error, nats.errors.NoServersError) and failures:
                raise failures[-1] from None
            if isinstance(error, nats.errors.SecureConnWantedError):
                raise HubUnavailable(
                    "the server doesn't offer TLS, which is required here; nothing was said to it"
                ) from None
            raise
        failures.clear()
        return session


def _credentials(options: Options) -> dict[str, Any]:
    """What nats-py calls them. Files are read again for each session, so that new ones are taken up."""
    given: dict[str, Any] = {
        "user": options.user,
        "password": options.password,
        "token": options.token,
        "nkeys_seed_str": options.nkey_seed,
        "user_credentials": str(options.creds) if options.creds else None,
    }
    if options.tls_ca or options.tls_cert:
        context = ssl.create_default_context(cafile=str(options.tls_ca) if options.tls_ca else None)
        if options.tls_cert and options.tls_key:
            context.load_cert_chain(str(options.tls_cert), str(options.tls_key))
        given["tls"] = context
    return given


def _check_keys(options: Options) -> None:
    """A seed that is none, or a missing package, is said at once."""
    if options.nkey_seed is None and options.creds is None:
        return
    try:
        import nkeys  # type: ignore[import-untyped]
    except ImportError:
        raise BadOption(
            "an nkey seed or a credentials file needs the package nkeys: pip install 'central-hub[nkeys]'"
        ) from None
    if options.nkey_seed is not None:
        try:
            nkeys.from_seed(bytearray(options.nkey_seed.strip().encode())).wipe()
        except Exception:
            raise BadOption("nkey_seed holds no user's seed: that is 58 characters from SU on") from None
