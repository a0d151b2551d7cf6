"""Fault switches: a test turns them on to see how clients handle failures of Supabase.

``POST /_faults`` with the service or secret key merges a JSON object into the switches below and
answers with their state. ``GET`` shows the state, ``DELETE`` resets it. Counters count down.

=====================  ==========================================================================
``network_cut``        true: all sockets are closed abnormally, and new sockets are refused
``drop_messages``      n: the next n broadcasts are not delivered
``delay_messages``     n: the next n broadcasts are delayed by ``delay_seconds``
``duplicate_messages`` n: the next n broadcasts are delivered twice
``close_channels``     topic or ``*``: its channels get a system error and ``phx_close``, once
``answer_503``         n: the next n requests under ``path`` are answered with 503, without effect
``cut_after_commit``   n: the next n REST writes under ``path`` succeed, and their answers are lost
``path``               prefix of the paths to which the two counters above apply; default: all
=====================  ==========================================================================
"""

from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from picture_queue.local import json_body
from picture_queue.local.gateway.credentials import Credentials

FAULTS_PATH: Final = "/_faults"
_MAX_VALUE: Final = 10_000  # of a counter, of seconds, or of the characters of a text


@dataclass(frozen=True)
class Switches:
    """The current faults; none by default."""

    network_cut: bool = False
    drop_messages: int = 0
    delay_messages: int = 0
    delay_seconds: float = 0.5
    duplicate_messages: int = 0
    close_channels: str = ""
    answer_503: int = 0
    cut_after_commit: int = 0
    path: str = "/"

    def merge(self, changes: object) -> "Switches":
        """Return a copy with the changes.

        Raises:
            ValueError: A switch is unknown, or its value has the wrong type or is out of bounds.
        """
        if not isinstance(changes, dict):
            raise ValueError("the body must be a JSON object")
        values: dict[str, Any] = {}
        for name, value in changes.items():
            default = {field.name: field.default for field in fields(self)}.get(name)
            accepted = (int, float) if isinstance(default, float) else type(default)
            if (
                default is None
                or not isinstance(value, accepted)
                or (isinstance(value, bool) and not isinstance(default, bool))
            ):
                raise ValueError(f"{name}: unknown switch, or a value of the wrong type")
            if not 0 <= _magnitude(value) <= _MAX_VALUE:
                raise ValueError(f"{name}: not between 0 and {_MAX_VALUE}")
            values[name] = value
        return replace(self, **values)


def _magnitude(value: Any) -> float:
    return len(value) if isinstance(value, str) else value


class Faults:
    """The switches, and the endpoint that sets them."""

    def __init__(
        self, credentials: Credentials, on_change: Callable[[Switches], Awaitable[None]]
    ) -> None:
        self._credentials = credentials
        self._on_change = on_change
        self.switches = Switches()

    def take(self, counter: str, path: str | None = None) -> bool:
        """Return whether a fault applies now, and decrement its counter.

        Args:
            counter: Name of the counter of the fault.
            path: Path of the request, for counters that apply to some paths only.
        """
        count: int = getattr(self.switches, counter)
        if count <= 0 or (path is not None and not path.startswith(self.switches.path)):
            return False
        changes: dict[str, Any] = {counter: count - 1}
        self.switches = replace(self.switches, **changes)
        return True

    async def endpoint(self, request: Request) -> Response:
        """Answer GET, POST and DELETE of ``/_faults``."""
        headers = request.headers
        if not self._credentials.is_service(headers.get("authorization"), headers.get("apikey")):
            return JSONResponse({"message": "the service key sets faults"}, status_code=403)
        # A browser sends text and forms without a preflight, even from the page of another site.
        if request.method == "POST" and not json_body.is_json(request):
            return JSONResponse({"message": "send application/json"}, status_code=415)
        try:
            if request.method == "POST":
                self.switches = self.switches.merge(
                    json_body.parse(await json_body.receive(request))
                )
            elif request.method == "DELETE":
                self.switches = Switches()
        except ValueError as error:
            return JSONResponse({"message": str(error)}, status_code=400)
        if request.method != "GET":
            await self._on_change(self.switches)
            self.switches = replace(self.switches, close_channels="")
        return JSONResponse(asdict(self.switches))
