"""The door of endpoints: speaks TLS and checks logins, wakes the compute, and passes everything on to it.

All endpoints are served by one event loop in a thread of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from pytest_lakebranch.emulator import startup
from pytest_lakebranch.emulator.scram import MECHANISM, Exchange, ScramError
from pytest_lakebranch.emulator.startup import RefusedError
from pytest_lakebranch.postgres import messages
from pytest_lakebranch.state import SOCKET_NAME

T = TypeVar("T")
CHUNK = 1 << 16
PROTOCOL_3 = 3
PATIENCE = 60.0
"""Seconds for a client to log in."""
INSECURE = "connection is insecure (try using `sslmode=require`)"


class Door(Protocol):
    """What the gateway asks of an endpoint. All but the last two may take their time, and raise RefusedError."""

    def verifier(self, user: str) -> str | None:
        """What PostgreSQL keeps of the password of a role that logs in with one; None for one that needs a token."""

    def admit(self, user: str, token: str) -> None:
        """Check a login with a token."""

    def socket_directory(self) -> str:
        """Where the compute listens; wakes it."""

    def options(self) -> str:
        """Settings for each session."""

    def touch(self) -> None:
        """Data passed."""


Find = Callable[[str | None], Door | None]
"""The door for a token; with None that of an address that leads to one endpoint only, if it does."""


@dataclass(slots=True)
class _Listening:
    server: asyncio.Server
    clients: set[asyncio.StreamWriter]


class Gateway:
    """Serves endpoints until it is closed. ``tls`` gives the TLS context for an address."""

    def __init__(self, tls: Callable[[str], Any]) -> None:
        self._tls = tls
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="lakebranch-gateway", daemon=True)
        self._pool = ThreadPoolExecutor(max_workers=32, thread_name_prefix="lakebranch-login")
        self._listening: dict[str, _Listening] = {}
        self._thread.start()

    def open(self, address: str, listener: socket.socket, find: Find) -> None:
        """Serve at ``address``, on which ``listener`` listens; ``find`` tells where its clients go."""
        self._run(self._open(address, listener, find))

    async def _open(self, address: str, listener: socket.socket, find: Find) -> None:
        clients: set[asyncio.StreamWriter] = set()
        context = self._tls(address)

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            clients.add(writer)
            try:
                await _Conversation(reader, writer, context, find, self._in_thread).hold()
            finally:
                clients.discard(writer)

        self._listening[address] = _Listening(await asyncio.start_server(serve, sock=listener), clients)

    def close_address(self, address: str) -> None:
        """Stop serving, and hang up on all clients. Idempotent."""
        self._run(self._close(address))

    async def _close(self, address: str) -> None:
        listening = self._listening.pop(address, None)
        if listening is not None:
            listening.server.close()
            for writer in listening.clients:
                writer.transport.abort()

    def close(self) -> None:
        """Stop serving altogether."""
        for address in list(self._listening):
            self.close_address(address)
        self._run(self._end_tasks())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._pool.shutdown()

    @staticmethod
    async def _end_tasks() -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def _in_thread(self, function: Callable[..., T], *args: Any) -> T:
        return await self._loop.run_in_executor(self._pool, function, *args)


@dataclass(slots=True)
class _Conversation:
    """One client's connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    context: Any
    find: Find
    in_thread: Callable[..., Coroutine[Any, Any, Any]]
    secure: bool = False

    async def hold(self) -> None:
        """From the first byte to the last."""
        try:
            async with asyncio.timeout(PATIENCE):
                inner = await self._log_in()
            if inner is not None:
                await self._relay(*inner)
        except RefusedError as error:
            with contextlib.suppress(OSError):
                self.writer.write(error.packet())
                await self.writer.drain()
        except (OSError, asyncio.IncompleteReadError, TimeoutError):
            pass  # the client or the compute has hung up, and the other one is told by our hanging up
        finally:
            self.writer.close()

    async def _log_in(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, Door] | None:
        said = await startup.opening(self.reader)
        while said.code in messages.ENCRYPTION_REQUESTS:
            if said.code == messages.SSL_REQUEST and not self.secure:
                await self._encrypt()
            else:
                self.writer.write(b"N")
            said = await startup.opening(self.reader)
        if said.code == messages.CANCEL_REQUEST:
            await self._cancel(said.body)
            return None
        if said.code >> 16 != PROTOCOL_3:
            raise RefusedError("0A000", f"unsupported frontend protocol {said.code >> 16}.{said.code & 0xFFFF}")
        if not self.secure:
            raise RefusedError("28000", INSECURE)
        return await self._admitted(said.code, said.parameters)

    async def _encrypt(self) -> None:
        self.writer.write(b"S")
        await self.writer.drain()
        await self.writer.start_tls(self.context)
        self.secure = True

    async def _admitted(
        self, version: int, given: dict[str, str]
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, Door]:
        user = given.get("user", "")
        door = self.find(None)
        verifier = None if door is None else await self.in_thread(door.verifier, user)
        if door is None or verifier is None:
            door = await self._by_token(user)
        else:
            await self._by_password(user, verifier)
        directory = await self.in_thread(door.socket_directory)
        inner_reader, inner_writer = await asyncio.open_unix_connection(f"{directory}/{SOCKET_NAME}")
        if more := door.options():
            given["options"] = f"{given.get('options', '')} {more}".strip()
        inner_writer.write(messages.start_up(given, version))
        return inner_reader, inner_writer, door

    async def _by_token(self, user: str) -> Door:
        self.writer.write(startup.authentication(startup.AUTH_CLEARTEXT))
        await self.writer.drain()
        token = (await startup.answer(self.reader)).rstrip(b"\0").decode(errors="replace")
        door = self.find(token)
        if door is None:
            raise RefusedError("28P01", f'password authentication failed for user "{user}"')
        await self.in_thread(door.admit, user, token)
        return door

    async def _by_password(self, user: str, verifier: str) -> None:
        """SCRAM-SHA-256; PostgreSQL itself, which listens on a closed socket, is not asked again."""
        try:
            exchange = Exchange(verifier)
            self.writer.write(startup.authentication(startup.AUTH_SASL, f"{MECHANISM}\0\0".encode()))
            mechanism, message = startup.initial_response(await startup.answer(self.reader))
            if mechanism != MECHANISM:
                raise RefusedError("08P01", "client selected an invalid SASL authentication mechanism")
            self.writer.write(startup.authentication(startup.AUTH_SASL_CONTINUE, exchange.first(message)))
            final = exchange.final(await startup.answer(self.reader))
            self.writer.write(startup.authentication(startup.AUTH_SASL_FINAL, final))
        except ScramError as error:
            raise RefusedError("28P01", f'password authentication failed for user "{user}"') from error

    async def _cancel(self, key: bytes) -> None:
        door = self.find(None)
        if door is None:
            return
        directory = await self.in_thread(door.socket_directory)
        _, inner = await asyncio.open_unix_connection(f"{directory}/{SOCKET_NAME}")
        inner.write(messages.request(messages.CANCEL_REQUEST, key))
        await inner.drain()
        inner.close()

    async def _relay(self, inner_reader: asyncio.StreamReader, inner_writer: asyncio.StreamWriter, door: Door) -> None:
        """Pass on both ways until one side hangs up; what the other one still says is passed on first."""
        up = asyncio.ensure_future(_pump(self.reader, inner_writer, door))
        down = asyncio.ensure_future(_pump(inner_reader, self.writer, door))
        try:
            await asyncio.wait((up, down), return_when=asyncio.FIRST_COMPLETED)
            if up.done():  # the server says good-bye itself, once it sees the end
                inner_writer.write_eof()
                await asyncio.wait((down,), timeout=1.0)
        except OSError:
            pass
        finally:
            inner_writer.close()
            for task in (up, down):
                task.cancel()
            await asyncio.gather(up, down, return_exceptions=True)


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter, door: Door) -> None:
    with contextlib.suppress(OSError):
        while data := await source.read(CHUNK):
            sink.write(data)
            await sink.drain()
            door.touch()
