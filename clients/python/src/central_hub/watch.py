"""A watch of a KV bucket that outlives every kind of restart.

The watch of nats-py isn't used: its consumer has no name, so permissions can't bind it to one key, and it stalls
silently when the bucket is made anew. Here the consumer has a name and a filter, which the server checks; it sends a
sign of life every second; and whenever anything is doubtful it is thrown away and made again, since the values
themselves say which of them is newest.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

import nats.errors
import nats.js.errors
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

from .backoff import Backoff
from .connection import Connection, Session
from .errors import HubUnavailable
from .names import fresh_instance
from .waiting import apart, see

log = logging.getLogger("central_hub")

_HEARTBEAT = 0.8
"""Seconds between signs of life of an idle consumer."""

_SILENCE = 1.8
"""After so many seconds of silence the consumer is gone: its bucket was deleted, or the server forgot it."""

_ABANDONED = 10.0
"""Seconds after which the server drops a consumer that nobody listens to."""

_CALL = 2.0
"""Seconds that JetStream has to answer."""

_STABLE = 30.0
"""A watch that lived this many seconds was a success: when it ends, the next one is opened at once."""


class Missing(Enum):
    """What isn't there. It never means that a config was erased."""

    KEY = "key"
    BUCKET = "bucket"


@dataclass(frozen=True)
class Update:
    """A key and what stands under it now; ``None``: a marker says that it was removed."""

    key: str
    value: bytes | None


class KeyWatch:
    """Watches ``keys`` (one key, or ``>`` for all) of a bucket: the current values first, then each change.

    The hooks are called on the event loop and must return at once. ``on_update`` gets every value, some of them more
    than once and perhaps old ones again. ``on_missing`` is told at each opening what isn't there. ``on_opening``
    comes before the current values and ``on_snapshot`` after them, each time that the watch is opened.
    """

    def __init__(
        self,
        connection: Connection,
        bucket: str,
        keys: str,
        on_update: Callable[[Update], None],
        on_missing: Callable[[Missing], None] = lambda missing: None,
        on_snapshot: Callable[[], None] = lambda: None,
        on_opening: Callable[[], None] = lambda: None,
    ) -> None:
        self._connection = connection
        self._stream = f"KV_{bucket}"
        self._subjects = f"$KV.{bucket}."
        self._keys = keys
        self._on_update = on_update
        self._on_missing = on_missing
        self._on_snapshot = on_snapshot
        self._on_opening = on_opening
        self._doubt = asyncio.Event()
        self.is_live = False
        """Whether changes arrive now, as far as this side knows."""

    def rebuild(self, why: str) -> None:
        """Has the consumer made anew: somebody knows of a value that it should have delivered."""
        log.info("watch of %s%s: opened again, because %s", self._subjects, self._keys, why)
        self._doubt.set()

    async def run(self) -> None:
        """Watches until it is cancelled, or the connection is closed for good."""
        loop = asyncio.get_running_loop()
        backoff = Backoff(1.0, 30.0)
        not_before = 0.0
        while True:
            try:
                session = await self._connection.session()
            except HubUnavailable:
                return
            # Reading the key costs the server nearly nothing, a consumer does. So the newest is known soon after the
            # bucket's return, and also while watches that don't last are opened ever less often.
            try:
                missing = await self.look(session)
            except HubUnavailable as error:
                log.debug("watch of %s%s: %s", self._subjects, self._keys, error)
                missing = Missing.BUCKET
            early = not_before - loop.time()
            if missing is Missing.BUCKET or early > 0:
                await asyncio.sleep(min(max(early / 4, 0.8), 5.0) * random.uniform(0.6, 1.2))
                continue
            began = loop.time()
            try:
                await self._follow(session)
            except (nats.errors.Error, OSError) as error:
                log.debug("watch of %s%s: %s", self._subjects, self._keys, error)
            finally:
                self.is_live = False
            if loop.time() - began > _STABLE:
                backoff.reset()
            not_before = loop.time() + backoff.next()

    async def look(self, session: Session) -> Missing | None:
        """Reads the key, apart from the watch (of several keys: only whether the bucket is there), and tells the hooks.

        Raises `HubUnavailable` when JetStream doesn't answer.
        """
        key = "_" if self._keys == ">" else self._keys
        missing: Missing | None = None
        try:
            subject = f"$JS.API.DIRECT.GET.{self._stream}.{self._subjects}{key}"
            message = await apart(session.client.request(subject, timeout=_CALL))
        except nats.errors.NoRespondersError:
            missing = Missing.BUCKET
        except (nats.errors.Error, OSError) as error:
            raise HubUnavailable(f"JetStream didn't answer: {error}") from None
        else:
            headers = message.headers or {}
            if headers.get("Status") == "404":
                missing = Missing.KEY
            elif "Nats-Subject" in headers:
                self._on_update(Update(key, _value(message)))
            else:
                raise HubUnavailable(f"JetStream answered {headers.get('Status', 'without a status')}")
        if missing is Missing.BUCKET or (missing is Missing.KEY and self._keys != ">"):
            self._on_missing(missing)
        return missing

    async def _follow(self, session: Session) -> None:
        """Has a consumer and hands on what it delivers, until it is in doubt."""
        self._doubt.clear()
        self._on_opening()
        consumer = _Consumer(session, self._deliver, self._on_snapshot)
        try:
            await consumer.open(self._stream, self._subjects + self._keys)
            self.is_live = True
            why = await consumer.until_doubt(self._doubt)
            log.debug("watch of %s%s: %s", self._subjects, self._keys, why)
        finally:
            await consumer.close()

    def _deliver(self, message: Msg) -> None:
        self._on_update(Update(message.subject[len(self._subjects) :], _value(message)))


def _value(message: Msg) -> bytes | None:
    removed = message.headers is not None and message.headers.get("KV-Operation") in ("DEL", "PURGE")
    return None if removed else message.data


class _Consumer:
    """One ordered, named push consumer. It is never mended."""

    def __init__(self, session: Session, deliver: Callable[[Msg], None], snapshot: Callable[[], None]) -> None:
        self._session = session
        self._deliver = deliver
        self._snapshot = snapshot
        self._name = fresh_instance("hub")
        self._stream = ""
        self._sequence = 0
        self._snapshot_is_due = False
        self._heard = asyncio.get_running_loop().time()
        self._gap = asyncio.Event()
        self._subscribing: asyncio.Task[Subscription] | None = None

    async def open(self, stream: str, subjects: str) -> None:
        client = self._session.client
        self._stream = stream
        inbox = client.new_inbox()
        # Kept before it is there: who is cancelled meanwhile takes it back all the same.
        self._subscribing = asyncio.ensure_future(client.subscribe(inbox, cb=self._on_message))
        self._subscribing.add_done_callback(see)
        await asyncio.shield(self._subscribing)
        wanted = ConsumerConfig(
            name=self._name,
            filter_subject=subjects,
            deliver_subject=inbox,
            deliver_policy=DeliverPolicy.LAST_PER_SUBJECT,
            ack_policy=AckPolicy.NONE,
            max_deliver=1,
            flow_control=True,
            idle_heartbeat=_HEARTBEAT,
            inactive_threshold=_ABANDONED,
            num_replicas=1,
            mem_storage=True,
        )
        # Values may come before the answer does.
        self._snapshot_is_due = True
        made = await apart(client.jsm(timeout=_CALL).add_consumer(stream, wanted))
        if self._snapshot_is_due and not made.num_pending and self._sequence == 0:
            self._snapshot_is_due = False
            self._snapshot()

    async def until_doubt(self, doubt: asyncio.Event) -> str:
        """Waits until the consumer may have missed something, and says why."""
        loop = asyncio.get_running_loop()
        waits = {
            asyncio.ensure_future(event.wait()): why
            for event, why in (
                (self._session.ended, "the session ended"),
                (self._gap, "messages were lost"),
                (doubt, "it is doubted"),
            )
        }
        try:
            while True:
                patience = self._heard + _SILENCE - loop.time()
                await asyncio.wait(waits, timeout=max(patience, 0.01), return_when=asyncio.FIRST_COMPLETED)
                for wait, why in waits.items():
                    if wait.done():
                        return why
                if loop.time() - self._heard >= _SILENCE:
                    # This side may have slept: what the server had sent by then has arrived after a round trip. And if
                    # the server sleeps, the consumer goes on when it wakes.
                    before = self._heard
                    if await self._session.round_trip(_CALL) and self._heard == before:
                        return "it is silent"
        finally:
            for wait in waits:
                wait.cancel()

    async def close(self) -> None:
        if self._subscribing is None or not self._session.is_alive:
            return
        with contextlib.suppress(nats.errors.Error, OSError):
            subscription = await asyncio.shield(self._subscribing)
            await apart(subscription.unsubscribe())
        # Without an answer: the server drops it soon by itself.
        with contextlib.suppress(nats.errors.Error, OSError):
            await apart(self._session.client.publish(f"$JS.API.CONSUMER.DELETE.{self._stream}.{self._name}"))

    async def _on_message(self, message: Msg) -> None:
        self._heard = asyncio.get_running_loop().time()
        headers = message.headers or {}
        if headers.get("Status") == "100":
            await self._on_control(message, headers)
            return
        try:
            metadata = message.metadata
        except nats.errors.NotJSMessageError:
            return
        if metadata.sequence.consumer != self._sequence + 1:
            self._gap.set()
            return
        self._sequence += 1
        self._deliver(message)
        if self._snapshot_is_due and not metadata.num_pending:
            self._snapshot_is_due = False
            self._snapshot()

    async def _on_control(self, message: Msg, headers: dict[str, str]) -> None:
        answer_to = message.reply or headers.get("Nats-Consumer-Stalled")
        if answer_to:
            # Flow control: everything before this was handed on.
            await apart(self._session.client.publish(answer_to))
        delivered = headers.get("Nats-Last-Consumer")
        if delivered is not None and delivered.isdigit() and int(delivered) != self._sequence:
            self._gap.set()
