"""Serving the emulator's API on a loopback port."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from werkzeug.serving import WSGIRequestHandler, make_server

from pytest_lakebranch.emulator.addresses import listening
from pytest_lakebranch.errors import MachineError

if TYPE_CHECKING:
    from pytest_lakebranch.emulator.emulator import Emulator

HOST = "127.0.0.1"


class _Handler(WSGIRequestHandler):
    """Connections are kept alive, and small answers are sent at once."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log(self, type: str, message: str, *args: Any) -> None:  # noqa: A002  (werkzeug's name)
        """Requests are remembered by the application; they are not printed."""

    def connection_dropped(self, error: BaseException, environ: Any = None) -> None:
        """The client has gone, or is dropped on purpose."""
        self.close_connection = True


@contextlib.contextmanager
def served(emulator: Emulator, port: int = 0) -> Iterator[str]:
    """The API's URL until the block ends; port 0 is any free one. Raises MachineError."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    try:
        listener = listening(HOST, port)
    except OSError as error:
        raise MachineError(
            f"port {port} on {HOST} cannot be listened on: {error.strerror}. Is another emulator running? "
            "Choose another one with --port, or 0 for any that is free."
        ) from error
    with listener:  # the server has a copy of it
        port, handle = listener.getsockname()[1], listener.fileno()
        server = make_server(HOST, port, emulator.application, threaded=True, request_handler=_Handler, fd=handle)
    thread = threading.Thread(target=server.serve_forever, name="lakebranch-http", daemon=True)
    thread.start()
    try:
        yield f"http://{HOST}:{server.port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
