"""Long-running operations: what a change answers at once, and how it ends."""

from __future__ import annotations

import base64
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from pytest_lakebranch.emulator.clock import WorldTime
from pytest_lakebranch.emulator.refusals import ApiError, not_found
from pytest_lakebranch.emulator.resources import uid
from pytest_lakebranch.errors import LakebranchError

TYPE = "type.googleapis.com/databricks.postgres.v1.{kind}OperationMetadata"
EMPTY = {"@type": "type.googleapis.com/google.protobuf.Empty"}
WORKERS = 8
View = dict[str, Any]


@dataclass(slots=True)
class Operation:
    """One operation; readable for as long as the emulator runs, also when its resource is gone."""

    name: str
    kind: str
    done: bool = False
    response: View | None = None
    error: View | None = None

    def view(self) -> View:
        """As the API shows it."""
        shown: View = {"name": self.name, "done": self.done, "metadata": {"@type": TYPE.format(kind=self.kind)}}
        if self.error is not None:
            shown["error"] = self.error
        elif self.response is not None:
            shown["response"] = self.response
        return shown


@dataclass(frozen=True, slots=True)
class Work:
    """What an operation does: ``run`` the slow part, then ``commit``, which returns the resource, or None when it is
    gone; ``undo`` when either fails. With a ``failure`` neither is done. It takes ``seconds`` at least.
    """

    commit: Callable[[], View | None]
    undo: Callable[[], None]
    run: Callable[[], None]
    seconds: float = 0.0
    failure: tuple[str, str] | None = None

    def outcome(self) -> View:
        """The answer, once ``run`` is through. Raises ApiError when it was made to fail."""
        if self.failure is not None:
            raise ApiError(500, *self.failure)
        return self.commit() or EMPTY


class Operations:
    """All operations of the emulator."""

    def __init__(self, time: WorldTime) -> None:
        self._time = time
        self._all: dict[str, Operation] = {}
        self._workers = ThreadPoolExecutor(max_workers=WORKERS, thread_name_prefix="lakebranch-operation")
        self._waiting = ThreadPoolExecutor(max_workers=64, thread_name_prefix="lakebranch-waiting")
        self._lock = threading.Lock()

    def start(self, resource: str, kind: str, work: Work) -> View:
        """Begin; the answer says that it is not done."""
        operation = Operation(f"{resource}/operations/{_identifier()}", kind)
        with self._lock:
            self._all[operation.name] = operation
        view = operation.view()
        self._waiting.submit(self._carry_out, operation, work)
        return view

    def get(self, name: str) -> View:
        """The operation as it is now; raises ApiError."""
        with self._lock:
            if name not in self._all:
                raise not_found("operation")
            return self._all[name].view()

    def _carry_out(self, operation: Operation, work: Work) -> None:
        """Sleep beside the work, so that both together take as long as the longer one. It ends, whatever happens."""
        try:
            self._try(operation, work)
            if operation.error is not None:
                work.undo()
        except Exception:  # noqa: BLE001  (a defect of ours; the client has been told of the first)
            traceback.print_exc()
        finally:
            operation.done = True

    def _try(self, operation: Operation, work: Work) -> None:
        began = self._time.now()
        try:
            if work.failure is None:
                self._workers.submit(work.run).result()
            self._time.wait(began + work.seconds - self._time.now())
            operation.response = work.outcome()
        except ApiError as error:
            operation.error = {"error_code": error.code, "message": error.message, "details": list(error.details)}
        except LakebranchError as error:
            operation.error = {"error_code": "INTERNAL_ERROR", "message": str(error)}
        except Exception as error:  # noqa: BLE001  (a defect of ours: said to the client, not hidden in a thread)
            traceback.print_exc()
            operation.error = {"error_code": "INTERNAL_ERROR", "message": f"{type(error).__name__}: {error}"}

    def close(self) -> None:
        """Wait for all that is under way."""
        self._waiting.shutdown()
        self._workers.shutdown()


def _identifier() -> str:
    """Base64 of a small protobuf, as the service's are: opaque, with padding."""
    return base64.b64encode(b"\x08\x02\x18\x01\x22\x24" + uid().encode() + b"\x28\x00").decode()
