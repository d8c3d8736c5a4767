"""`ConfigClient`: the configuration that a process runs on, whatever happens to the hub."""

from __future__ import annotations

import asyncio
import logging
import os
import random
from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import TYPE_CHECKING, Any

from .backoff import Backoff
from .cache import LastGood, folder
from .callbacks import Callback, Runner
from .calls import Calls, given
from .closing import Closing
from .entries import Entry, Position, is_place, read_entry, read_text
from .errors import CentralHubError, HubUnavailable, NotFound
from .layers import Layers, Source, Weight
from .names import check_service
from .options import ConnectionArgs
from .references import Resolved, UnresolvedReferences
from .waiting import happens, lasting, stop
from .watch import KeyWatch, Missing, Update

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack

    from .client import CentralHubClient

log = logging.getLogger("central_hub")

_ERROR_CHARS = 1000
"""The hub takes no longer text."""

_PUSH_PATIENCE = 0.4
"""Seconds that a push may take after a heartbeat's answer told of it, before the key is read."""


class ConfigClient(Closing):
    """Which configuration is in force for a service, in this process.

    Layers, the first that has an answer: the hub, the last-good file, ``safe_defaults``. The defaults also fill in
    keys that the others lack. Texts of the form ``${env:NAME}`` in what comes from the hub are replaced from the
    environment. A newer config is in force as soon as it was pushed, resolved, and not refused by the application;
    nothing older is ever taken, and nothing but a delete on the hub erases. ::

        config = ConfigClient(service_name="tick-aggregator", safe_defaults={"interval": 60})
        await config.init_async()
        interval = (await config.get_config())["interval"]

    ``hub``: the process' `CentralHubClient`. Then both share its connection, the heartbeats report which config is in
    force (convergence), and their answers tell of a push that was missed. Without it, ``base_url`` and
    `ConnectionArgs` as there.

    ``validate``: called with every config before it is in force, the last-good file and the first one from the hub
    included; raising refuses it. ``env_allowlist``: which environment variables references may name, exactly or as
    ``PREFIX_*``; ``None``: all. ``cache_dir``: where the last-good file lies, instead of ``CENTRAL_HUB_CACHE_DIR`` or
    the user's cache folder; ``use_cache=False``: no file. ``instance_id``: which instance this is, for canaries of a
    rollout, where ``hub`` doesn't tell.

    ``init_timeout``: seconds that `init_async` waits for the hub. ``callback_timeout``: seconds that the application
    has for a config before it counts as refused. ``check_interval``: seconds between second looks at the key, should
    the watch have missed something.
    """

    def __init__(
        self,
        service_name: str,
        safe_defaults: Mapping[str, Any] | None = None,
        *,
        hub: CentralHubClient | None = None,
        base_url: str | Sequence[str] | None = None,
        validate: Callback | None = None,
        env_allowlist: Sequence[str] | str | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        use_cache: bool = True,
        instance_id: str | None = None,
        init_timeout: float = 3.0,
        callback_timeout: float = 30.0,
        check_interval: float = 30.0,
        environ: Mapping[str, str] | None = None,
        **connection: Unpack[ConnectionArgs],
    ) -> None:
        environ = os.environ if environ is None else environ
        self.service_name = check_service(service_name)
        self._hub = hub
        self._calls = Calls.of(hub, base_url, connection, f"config of {service_name}", 2.0)
        self._connection = self._calls.connection
        allow = [env_allowlist] if isinstance(env_allowlist, str) else env_allowlist
        self._layers = Layers(dict(safe_defaults or {}), environ, allow)
        self._file = LastGood(folder(cache_dir, environ), service_name) if use_cache else None
        self._validate = validate
        self._callbacks: list[Callback] = []
        self._runner = Runner(callback_timeout)
        self._given_id = instance_id
        self._known_id: str | None = None
        self._init_timeout = init_timeout
        self._check_interval = check_interval

        self._offered: Entry | None = None
        self._newest: Position | None = None
        self._wanted: Position | None = None
        self._offer_is_due = asyncio.Event()
        self._look_is_due = asyncio.Event()
        self._answered = asyncio.Event()
        self._judging = asyncio.Lock()
        self._asking = Backoff(0.5, 30.0)
        self._ask_after = 0.0
        self._starting: asyncio.Task[None] | None = None
        self._writing: asyncio.Future[None] | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._closed = False
        bucket = f"{self._connection.options.bucket_prefix}_config"
        self._watch = KeyWatch(self._connection, bucket, service_name, self._note_update, self._note_missing)

    # --- for the application ------------------------------------------------------------------------------------------

    async def init_async(self) -> None:
        """Starts it: reads the last-good file, then waits for the hub's answer, but never longer than ``init_timeout``.

        It doesn't fail when nobody answers: the process starts on the file or the defaults, `source` says so, and the
        hub's config comes as soon as it can. A second call changes nothing, nor does one after `close`.
        """
        if self._starting is None:
            if self._closed:
                return
            self._starting = asyncio.ensure_future(self._start())
        # Not cancelled with its caller; and a `close` meanwhile is no failure.
        await asyncio.wait({self._starting})
        if not self._starting.cancelled():
            self._starting.result()

    async def get_config(self) -> dict[str, Any]:
        """The config in force: a copy of the caller's own. Starts the client where `init_async` wasn't called; after
        `close` it is the last one that was in force."""
        await self.init_async()
        return self.config

    async def watch_config(self, callback: Callback) -> None:
        """Has ``callback`` called with the config in force, if it came from the hub, and with each newer one before
        it is in force.

        The callback may be a coroutine function or a plain one, which then runs in a thread of its own. If it raises,
        or takes longer than ``callback_timeout``, the config is refused: the last good one stays in force, and
        heartbeats report why. One call runs at a time; of configs that arrive meanwhile the newest is tried. Several
        callbacks are asked in order.

        Called before `init_async`, it starts the client, and the callback judges the first config, too; so it waits
        for the hub as `init_async` does, and where nobody answers, returns without a call: the safe defaults aren't
        judged. Raises `HubUnavailable` after `close`.
        """
        if self._closed:
            raise HubUnavailable("this client is closed")
        self._callbacks.append(callback)
        if self._starting is None:
            await self.init_async()
            return
        await self.init_async()
        async with self._judging:
            if self._layers.in_force.entry is None:
                return
            try:
                await self._runner.call(callback, self.config)
            except Exception as error:
                # It is in force all the same: nothing better is at hand.
                self._layers.error = self._reason(error, self._resolved)
                log.exception("config of %s: the callback refuses what is in force", self.service_name)
                self._tell()

    @property
    def config(self) -> dict[str, Any]:
        """The config in force now, without waiting: a copy of the caller's own."""
        return deepcopy(self._layers.in_force.config)

    @property
    def source(self) -> Source:
        """Which layer answers: ``hub``, ``file`` or ``defaults``."""
        return self._layers.in_force.source

    @property
    def version(self) -> int | None:
        """The version in force; ``None`` where the defaults answer."""
        entry = self._layers.in_force.entry
        return entry.version if entry else None

    @property
    def position(self) -> Position | None:
        """Epoch and revision of what is in force; ``None`` where nothing of the hub is known."""
        return self._layers.position

    @property
    def error(self) -> str | None:
        """Why the newest config was refused; ``None``: it wasn't."""
        return self._layers.error

    async def close(self) -> None:
        """Stops watching. What is in force stays readable. A connection of its own is closed."""
        self._closed = True
        if self._hub is not None:
            self._hub.detach(self.service_name, self)
        await stop(self._starting, *self._tasks)
        self._tasks.clear()
        if self._writing is not None:
            # What was taken is also kept.
            await asyncio.wait({self._writing})
        await self._calls.close()

    async def __aenter__(self) -> Self:
        await self.init_async()
        return self

    # --- for the heartbeats -------------------------------------------------------------------------------------------

    def report(self) -> dict[str, Any]:
        """What a heartbeat says of the config: revision and version in force, and why a newer one was refused."""
        position, version = self.position, self.version
        if position is None:
            return given(config_error=self.error)
        # After a delete no version is in force; a field left out would mean that nothing changed.
        return given(config_revision=position.revision, config_version=version or 0, config_error=self.error)

    def hub_says(self, config: Any, instance_id: str) -> None:
        """Takes what an answer says should be in force: what was missed is read, and the watch that missed it opened
        anew."""
        if instance_id != self._known_id:
            # A canary may be meant for this instance.
            self._known_id = instance_id
            self._look_is_due.set()
        if not isinstance(config, dict):
            return
        epoch, revision = config.get("epoch"), config.get("revision")
        if is_place(epoch) and is_place(revision):
            said = Position(epoch, revision)
            if self._newest is None or said > self._newest:
                self._wanted = said
                self._look_is_due.set()

    # --- what comes in ------------------------------------------------------------------------------------------------

    async def _start(self) -> None:
        await self._read_file()
        self._tasks = [
            lasting(self._apply, f"judgement of {self.service_name}'s config"),
            lasting(self._watch.run, f"watch of {self.service_name}'s config"),
            lasting(self._second_looks, f"second look at {self.service_name}'s config"),
        ]
        if self._hub is not None:
            self._known_id = self._hub.instance_id(self.service_name)
            self._hub.attach(self.service_name, self)
        if not await happens(self._answered, self._init_timeout):
            log.warning("config of %s: the hub doesn't answer; running on the %s", self.service_name, self.source)

    async def _read_file(self) -> None:
        kept = await asyncio.to_thread(self._file.read) if self._file else None
        if kept is None:
            return
        try:
            resolved = self._layers.effective(kept)
            await self._judge(resolved)
        except Exception as error:
            log.warning("the last-good file of %s is ignored: %s", self.service_name, type(error).__name__)
            return
        self._resolved = resolved
        self._layers.take(kept, resolved.config, "file")
        self._newest = kept.position

    def _note_update(self, update: Update) -> None:
        """A value of the key; a marker says nothing about the config."""
        if update.value is None:
            return
        entry = read_text(self.service_name, update.value, self._given_id or self._known_id)
        if entry is None:
            log.warning("config of %s: a value in KV can't be read and is ignored", self.service_name)
            return
        self._offer(entry)

    def _note_missing(self, missing: Missing) -> None:
        if asyncio.get_running_loop().time() >= self._ask_after:
            self._look_is_due.set()

    def _offer(self, entry: Entry) -> None:
        """Takes an entry up for judgement; of several that wait, the newest."""
        weight = self._layers.weigh(entry)
        if self._newest is None or entry.position > self._newest:
            self._newest = entry.position
        if weight is Weight.NEW:
            if self._offered is None or entry.position > self._offered.position:
                self._offered = entry
                self._offer_is_due.set()
            return
        if weight is Weight.CONFIRMED:
            self._layers.confirm()
        elif weight is Weight.OLDER:
            log.debug("config of %s: %s is older than what was seen", self.service_name, entry.position)
        if not self._judging.locked():
            self._answered.set()

    # --- judgement ----------------------------------------------------------------------------------------------------

    _resolved = Resolved({}, frozenset())

    async def _apply(self) -> None:
        while True:
            await self._offer_is_due.wait()
            self._offer_is_due.clear()
            entry, self._offered = self._offered, None
            if entry is not None:
                async with self._judging:
                    if self._layers.weigh(entry) is Weight.NEW:
                        await self._try(entry)
                self._answered.set()

    async def _try(self, entry: Entry) -> None:
        resolved = Resolved({}, frozenset())
        try:
            resolved = self._layers.effective(entry)
            await self._judge(resolved)
        except Exception as error:
            why = self._reason(error, resolved)
            self._layers.refuse(entry, why)
            log.error(
                "config of %s: version %s (revision %d) is refused, %s stays: %s",
                self.service_name, entry.version, entry.position.revision, self._what_runs(), why,
            )  # fmt: skip
        else:
            self._resolved = resolved
            self._layers.take(entry, resolved.config, "hub")
            log.info("config of %s: %s is in force", self.service_name, self._what_runs())
            if self._file is not None:
                self._writing = asyncio.ensure_future(asyncio.to_thread(self._file.write, entry))
                await asyncio.shield(self._writing)
        self._tell()

    async def _judge(self, resolved: Resolved) -> None:
        for judge in [*([self._validate] if self._validate else []), *self._callbacks]:
            await self._runner.call(judge, deepcopy(resolved.config))

    def _reason(self, error: Exception, resolved: Resolved) -> str:
        """Why it was refused, for people, without the secrets that the environment put in."""
        name = "" if isinstance(error, UnresolvedReferences) else f"{type(error).__name__}: "
        try:
            text = str(error)
        except Exception:
            text = "it can't be put into words"
        return resolved.scrub(f"{name}{text}").replace("\0", "")[:_ERROR_CHARS]

    def _what_runs(self) -> str:
        position = self.position
        where = f" (revision {position.revision})" if position else ""
        return (
            f"version {self.version}{where} from the {self.source}"
            if self.version is not None
            else f"the defaults{where}"
        )

    def _tell(self) -> None:
        if self._hub is not None:
            self._hub.hurry(self.service_name)

    # --- second looks -------------------------------------------------------------------------------------------------

    async def _second_looks(self) -> None:
        """Reads the key now and then, and when there is reason to believe that the watch missed something."""
        backoff = Backoff(1.0, 30.0)
        while True:
            await happens(self._look_is_due, self._check_interval * random.uniform(0.8, 1.2))
            if self._wanted is not None:
                await asyncio.sleep(_PUSH_PATIENCE * random.uniform(0.5, 1.0))
            self._look_is_due.clear()
            try:
                await self._look()
            except CentralHubError as error:
                log.debug("config of %s: second look: %s", self.service_name, error)
            if self._wanted is not None and (self._newest is None or self._newest < self._wanted):
                await asyncio.sleep(backoff.next())
                self._look_is_due.set()
            else:
                self._wanted = None
                backoff.reset()

    async def _look(self) -> None:
        session = await self._connection.session(5.0)
        before, was_live = self._newest, self._watch.is_live
        if self._wanted is not None and before is not None and before >= self._wanted:
            self._wanted = None
        missing = await self._watch.look(session)
        if missing or (self._wanted is not None and (self._newest is None or self._newest < self._wanted)):
            await self._ask()
        else:
            self._asking.reset()
        if self._newest != before and was_live and before is not None:
            self._watch.rebuild("it missed a config")

    async def _ask(self) -> None:
        """Asks the hub itself, where the bucket doesn't have what it should; ever less often while that stays so."""
        loop = asyncio.get_running_loop()
        if loop.time() < self._ask_after:
            return
        self._ask_after = loop.time() + self._asking.next()
        try:
            answer = await self._calls.call(f"config.get.{self.service_name}")
        except NotFound:
            # No config, or none any more: only a tombstone in the bucket tells them apart.
            self._answered.set()
            return
        entry = read_entry(self.service_name, answer, None)
        if entry is None:
            return
        if self._wanted is not None and entry.position > self._wanted:
            # A change freeze: committed, and not to be run yet.
            return
        self._offer(entry)
