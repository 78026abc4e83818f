"""The host process: serves workers until the controller is gone or says so, then leaves nothing behind."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict
from io import BufferedRWPair
from pathlib import Path
from typing import IO, Any

from pytest_lakebranch.branches.engine import Engine, running
from pytest_lakebranch.branches.keeping import Keeping
from pytest_lakebranch.branches.reaper import reap
from pytest_lakebranch.config import Settings
from pytest_lakebranch.errors import HostError, LakebranchError
from pytest_lakebranch.host import wire
from pytest_lakebranch.host.choice import open_provider, programs
from pytest_lakebranch.host.run_directory import RunDirectory
from pytest_lakebranch.host.session import Session
from pytest_lakebranch.host.watch import Watch
from pytest_lakebranch.ledger import Ledger
from pytest_lakebranch.processes import Identity, import_ahead
from pytest_lakebranch.providers.local.cache import tidy
from pytest_lakebranch.servant import make_files_as_servant
from pytest_lakebranch.state import State, write_owner

PASSED_ON = (signal.SIGTSTP, signal.SIGQUIT)
"""What servers on their way have to heed: the stop of a gate, and the signal of our death. What is ignored by whoever
starts a program is ignored by it, and shells ignore SIGQUIT in what they start in the background.
"""
PAUSE_SECONDS = 0.05
"""After which the host listens again when it could not."""


class Host:
    """One run's host. ``serve`` returns when the run is over."""

    def __init__(self, directory: RunDirectory, engine: Engine, *, programs: str, controller: Identity) -> None:
        self._directory = directory
        self._engine = engine
        self._programs = programs
        self._controller = controller
        self._over = threading.Event()
        self._watch = Watch(self._process_ended)
        self._workers: dict[Identity, str] = {}
        self._sockets = ExitStack()
        self._lines: dict[socket.socket, Identity | None] = {}

    def serve(self, ready: Callable[[], None]) -> None:
        """Listen, call ``ready``, and serve until the run is over."""
        listener = self._sockets.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        listener.bind(str(self._directory.socket))
        listener.listen(64)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda *_: self._over.set())
        for number in PASSED_ON:
            signal.signal(number, signal.SIG_DFL)
        threading.Thread(target=self._accept, args=(listener,), name="accept", daemon=True).start()
        self._watch.add(self._controller)
        ready()
        self._over.wait()

    def close(self) -> None:
        """Hang up on everybody: whoever still waits for an answer learns that the host is gone."""
        self._sockets.close()
        for line in list(self._lines):
            _hang_up(line)

    def _process_ended(self, process: Identity) -> None:
        if process == self._controller:
            self._over.set()
        elif process in self._workers:
            self._engine.worker_gone(self._workers.pop(process))
            for line, caller in list(self._lines.items()):
                if caller == process:  # what it still waits for is given back; its forked children may hold the socket
                    _hang_up(line)

    def _accept(self, listener: socket.socket) -> None:
        while not self._over.is_set():
            try:
                connection, _ = listener.accept()
            except OSError:
                if listener.fileno() < 0:  # closed: the run is over
                    return
                self._over.wait(PAUSE_SECONDS)  # there are no descriptors left for now, or whoever called has gone
                continue
            threading.Thread(target=self._converse, args=(connection,), name="worker", daemon=True).start()

    def _converse(self, connection: socket.socket) -> None:
        """One worker's calls, in turn, until it hangs up. A worker that hangs up without a word has died."""
        workers: list[str] = []
        self._lines[connection] = None
        try:
            with connection, connection.makefile("rwb") as stream:
                self._answer_all(stream, workers, connection)
        except OSError:  # the worker is gone; what it held is ended below
            pass
        finally:
            del self._lines[connection]
            for worker in workers:
                if not self._over.is_set():
                    self._engine.worker_gone(worker)

    def _answer_all(self, stream: BufferedRWPair, workers: list[str], line: socket.socket) -> None:
        session = Session(self._engine, programs=self._programs)
        while (message := wire.receive(stream)) is not None:
            if message["call"] == "hello":
                workers.append(self._greet(line, **message["arguments"]))
                wire.send(stream, {"value": None})
            elif message["call"] == "finish":
                self._finish(stream)
            else:
                wire.send(stream, _answer(session, message))

    def _greet(self, line: socket.socket, worker: str, process: dict[str, Any]) -> str:
        identity = self._lines[line] = Identity(**process)
        self._workers[identity] = worker
        self._watch.add(identity)
        return worker

    def _finish(self, stream: wire.Writer) -> None:
        """End the run and answer with what it was; the branches are gone when the answer arrives."""
        try:
            self._engine.close()
            wire.send(stream, {"value": asdict(self._engine.summary())})
        finally:
            self._over.set()


def _hang_up(line: socket.socket) -> None:
    """Close a line for both sides; its thread finds that out when it has carried out the present call."""
    with suppress(OSError):  # it has just been closed
        line.shutdown(socket.SHUT_RDWR)


def _answer(session: Session, message: dict[str, Any]) -> dict[str, Any]:
    if message["call"] not in Session.CALLS:
        return wire.failure(HostError(f"the host knows no call {message['call']!r}."))
    try:
        return {"value": session.answer(message["call"], message["arguments"])}
    except LakebranchError as error:
        return wire.failure(error)
    except Exception as error:  # noqa: BLE001  (a defect of ours: said to the test, not hidden in a thread)
        with suppress(OSError):  # the disk that holds the log is full
            traceback.print_exc()
        return wire.failure(HostError(f"the host failed at {message['call']!r}: {type(error).__name__}: {error}"))


def run(path: Path, ready: Callable[[], None]) -> None:
    """Be the host of the run whose directory is ``path``, which is deleted when the run is over.

    When the host cannot start, the directory stays: other workers read there why.
    """
    make_files_as_servant()
    import_ahead("psycopg")
    order = RunDirectory(path, path).read_order()
    directory = RunDirectory(path, Path(order["sockets"]))
    lock = directory.claim()
    _serve(directory, order, ready)
    directory.remove()
    os.close(lock)


def _serve(directory: RunDirectory, order: dict[str, Any], ready: Callable[[], None]) -> None:
    with ExitStack() as stack:
        write_owner(directory.sockets, Identity.of(os.getpid()))
        settings, controller = Settings.from_json(order["settings"]), Identity(**order["controller"])
        state = State.at(settings.home).ensure()
        with _ended_with(controller, directory):
            _reap(state, directory.path)
            provider = open_provider(settings, state, directory)
        ledger = Ledger(directory.ledger)
        stack.callback(ledger.close)
        engine = Engine(
            provider,
            ledger,
            addresses=directory.sockets,
            workers=order["workers"],
            rebuild=settings.rebuild,
            keeping=Keeping(directory.path.name, settings),
        )
        stack.enter_context(running(engine))
        host = Host(
            directory,
            engine,
            programs=programs(settings),
            controller=controller,
        )
        stack.callback(host.close)
        host.serve(ready)


@contextmanager
def _ended_with(controller: Identity, directory: RunDirectory) -> Iterator[None]:
    """While the block runs, this process ends with the controller: there is nothing yet that it would have to delete,
    and a cloud may be waited for.
    """
    lock, over = threading.Lock(), threading.Event()

    def end(_: Identity) -> None:
        with lock:
            if not over.is_set():
                directory.remove()
                os._exit(1)

    Watch(end).add(controller)
    yield
    with lock:
        over.set()


def _reap(state: State, own: Path) -> None:
    """What cannot be cleared of other runs is no reason not to start this one, nor not to clear the rest."""
    with _printed():
        reap(state, but=own)
    with _printed():
        tidy(state.layers)


@contextmanager
def _printed() -> Iterator[None]:
    try:
        yield
    except (OSError, LakebranchError):
        traceback.print_exc()


def main() -> None:
    """Fork, so that the process that started us has no child to wait for; report readiness or failure to it."""
    path = Path(sys.argv[1])
    reader, writer = os.pipe()
    if os.fork():
        os.close(writer)
        with os.fdopen(reader, "rb") as news:
            sys.stdout.buffer.write(news.read())
        sys.stdout.flush()
        os._exit(0)
    os.close(reader)
    _redirect(path / "host.log")
    with os.fdopen(writer, "wb") as stream:
        try:
            run(path, ready=lambda: _tell(stream, {"value": os.getpid()}))
        except BlockingIOError:
            _tell(stream, {"value": 0})  # another host serves the run
        except LakebranchError as error:
            _tell(stream, wire.failure(error))
        except Exception as error:
            _tell(stream, wire.failure(HostError(f"the host could not start: {type(error).__name__}: {error}")))
            raise


def _tell(stream: IO[bytes], message: dict[str, Any]) -> None:
    if not stream.closed:
        wire.send(stream, message)
        stream.close()


def _redirect(log: Path) -> None:
    """Let go of the terminal and of every pipe of the process that started us."""
    target = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for source, descriptor in ((nothing, 0), (target, 1), (target, 2)):
        os.dup2(source, descriptor)
    os.close(target)
    os.close(nothing)
