"""Real servers to test on, private ones among them, to kill and wipe.

Everything runs under `central-hub guard`, so that nothing outlives the tests, however they end.
"""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import nats

REPOSITORY = Path(__file__).resolve().parents[3]
HUB_PROGRAM = Path(os.environ.get("CENTRAL_HUB_PROGRAM") or REPOSITORY / "target" / "debug" / "central-hub")

T = TypeVar("T")


async def eventually(condition: Callable[[], T | Awaitable[T]], deadline: float = 20.0) -> T:
    """Asks again and again until the answer is true, and gives it. The only way in which tests wait."""
    until = time.monotonic() + deadline
    pause, last = 0.005, None
    while True:
        try:
            answer = condition()
            found: Any = await answer if asyncio.iscoroutine(answer) else answer
            if found:
                return found  # type: ignore[no-any-return]
            last = repr(found)
        except (AssertionError, LookupError) as error:
            last = repr(error)
        assert time.monotonic() < until, f"not within {deadline} s; last: {last}"
        await asyncio.sleep(pause)
        pause = min(pause * 2, 0.1)


def unique(prefix: str = "t") -> str:
    """A name that nothing else has."""
    return prefix + secrets.token_hex(5)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Process:
    """A program under a guard."""

    def __init__(self, command: list[str], env: dict[str, str], log: Path) -> None:
        self.command, self.env, self.log = command, env, log
        self._guard: subprocess.Popen[bytes] | None = None
        self.pid = 0

    def start(self) -> None:
        with self.log.open("ab") as log:
            self._guard = subprocess.Popen(
                [str(HUB_PROGRAM), "guard", "--signal", "TERM", "--", *self.command],
                env=clean_environment() | self.env,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
            )
        assert self._guard.stdout is not None
        words = self._guard.stdout.readline().split()
        assert words[:1] == [b"pid"], f"{self.command[0]} didn't start: {self.tail()}"
        self.pid = int(words[1])

    def stop(self) -> None:
        if self._guard is None:
            return
        for pipe in (self._guard.stdin, self._guard.stdout):
            assert pipe is not None
            pipe.close()
        self._guard.wait(30)
        self._guard = None

    def kill9(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        self.stop()

    def pause(self) -> None:
        """Returns when all of its threads stand still."""
        os.kill(self.pid, signal.SIGSTOP)
        threads = Path(f"/proc/{self.pid}/task")
        while any(state.read_text().rsplit(")", 1)[1].split()[0] not in "TX" for state in threads.glob("*/stat")):
            time.sleep(0.001)

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def runs(self) -> bool:
        return self._guard is not None and self._guard.poll() is None

    def tail(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-40:])


def clean_environment() -> dict[str, str]:
    """Ours, without what tells a hub or a client where to go."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("CENTRAL_HUB_NATS_", "NATS_"))}


class Nats(Process):
    """A private nats-server with JetStream."""

    def __init__(self, folder: Path, config: str = "", scheme: str = "nats") -> None:
        self.port = free_port()
        self.url = f"{scheme}://127.0.0.1:{self.port}"
        self.store = folder / "store"
        self.config = folder / "nats.conf"
        self.lines = config
        super().__init__([str(nats_server()), "--config", str(self.config)], {}, folder / "nats.log")

    def start(self) -> None:
        text = f'server_name: "{unique()}"\nhost: "127.0.0.1"\nport: {self.port}\n'
        text += f'jetstream {{ store_dir: "{self.store}" }}\n'
        self.config.write_text(text + self.lines)
        super().start()
        until = time.monotonic() + 20
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            assert time.monotonic() < until, self.tail()
            time.sleep(0.02)

    def wipe(self) -> None:
        """Loses all its data. Only while it is stopped."""
        shutil.rmtree(self.store, ignore_errors=True)


class Hub(Process):
    """A `central-hub serve`."""

    def __init__(self, folder: Path, nats_url: str, database_url: str, **env: str) -> None:
        fixed = {
            "CENTRAL_HUB_NATS_URL": nats_url,
            "CENTRAL_HUB_DATABASE_URL": database_url,
            "CENTRAL_HUB_EVENTS_MAX_MIB": "8",
            "CENTRAL_HUB_REPLICA_ID": unique("r"),
        }
        self.nats_url = nats_url
        super().__init__([str(HUB_PROGRAM), "serve"], fixed | env, folder / "hub.log")

    async def ready(self) -> None:
        """Returns when it says of itself that it is well."""
        command = [str(HUB_PROGRAM), "health"]
        env = clean_environment() | {"CENTRAL_HUB_NATS_URL": self.nats_url}

        async def healthy() -> bool:
            asking = await asyncio.create_subprocess_exec(
                *command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            return await asking.wait() == 0

        try:
            await eventually(healthy, 30)
        except AssertionError:
            raise AssertionError(f"the hub isn't ready: {self.tail()}") from None


class Dev(Process):
    """A whole `central-hub dev`: its NATS, its hub, and the PostgreSQL that all tests share."""

    def __init__(self, folder: Path) -> None:
        command = [str(HUB_PROGRAM), "dev", "--temporary", "--data-dir", str(folder / "data")]
        self.output = folder / "dev.out"
        super().__init__(command, {"CENTRAL_HUB_LOG_LEVEL": "warn"}, folder / "dev.log")
        self.nats_url = self.database_url = ""

    def start(self) -> None:
        # The guard has stdout to itself.
        self.command = ["/bin/sh", "-c", 'exec "$@" >"$0"', str(self.output), *self.command]
        super().start()
        until = time.monotonic() + 90
        while "Ctrl-C" not in (text := self.output.read_text() if self.output.exists() else ""):
            assert time.monotonic() < until, f"dev isn't up: {text}\n{self.tail()}"
            assert self.runs(), f"dev ended: {text}\n{self.tail()}"
            time.sleep(0.05)
        self.nats_url = re.search(r"nats://\S+", text)[0]  # type: ignore[index]
        self.database_url = re.search(r"postgres://\S+", text)[0]  # type: ignore[index]

    def database(self) -> str:
        """The address of a new, empty database."""
        name = unique("d")
        subprocess.run(
            [postgres_program("psql"), "-q", self.database_url, "-c", f'CREATE DATABASE "{name}"'], check=True
        )
        return self.database_url.rsplit("/", 1)[0] + f"/{name}"


def nats_server() -> Path:
    named = os.environ.get("CENTRAL_HUB_NATS_SERVER") or shutil.which("nats-server")
    brought = REPOSITORY / ".tools" / "bin" / "nats-server"
    found = brought if brought.exists() else Path(named or "")
    assert found.is_file(), "no nats-server: run `make setup`"
    return found


def postgres_program(name: str) -> str:
    folder = os.environ.get("CENTRAL_HUB_PG_BIN")
    places = [folder] if folder else sorted(map(str, Path("/usr/lib/postgresql").glob("*/bin")), reverse=True)
    found = next((path for place in places if os.access(path := f"{place}/{name}", os.X_OK)), shutil.which(name))
    assert found, f"PostgreSQL's {name} wasn't found: run `make setup`"
    return found


def scratch(name: str) -> Path:
    """A folder that the users whom servers run as can enter, too."""
    folder = Path(tempfile.mkdtemp(prefix=f"central-hub-python-{name}-"))
    folder.chmod(0o755)
    return folder


async def stream(nats_url: str, action: str, name: str = "KV_hub_config") -> Any:
    """Does something to a stream behind the hub's back."""
    client = await nats.connect(nats_url, allow_reconnect=False)
    try:
        manager = client.jsm()
        return await getattr(manager, action)(name)
    finally:
        await client.close()


async def run_script(script: str, *args: str, env: dict[str, str] | None = None) -> asyncio.subprocess.Process:
    """A Python process of its own, with this package."""
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-X",
        "dev",
        "-W",
        "error",
        "-c",
        script,
        *args,
        env=clean_environment() | {"PYTHONPATH": os.pathsep.join(sys.path)} | (env or {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
