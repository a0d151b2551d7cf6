"""What all tests share: one embedded stack a session, or the project the environment names."""

import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any
from uuid import uuid4

import httpx
import pytest

from picture_queue import AsyncPictureQueue
from picture_queue.local.stack import LocalSupabase

# A run in the background of a shell inherits an ignored Ctrl-C; the programs the tests interrupt
# must not.
signal.signal(signal.SIGINT, signal.default_int_handler)


class RemoteStack:
    """A real project in place of the embedded stack, with the same attributes.

    `PICTURE_QUEUE_TEST_URL` selects it; the other variables are asked for by the tests that need
    them.
    """

    _VARIABLES = {  # noqa: RUF012
        "api_url": "PICTURE_QUEUE_TEST_URL",
        "db_url": "PICTURE_QUEUE_TEST_DB_URL",
        "anon_key": "SUPABASE_ANON_KEY",
        "service_role_key": "SUPABASE_SERVICE_ROLE_KEY",
        "publishable_key": "SUPABASE_PUBLISHABLE_KEY",
        "secret_key": "SUPABASE_SECRET_KEY",
        "jwt_secret": "SUPABASE_JWT_SECRET",
        "replicate_url": "REPLICATE_BASE_URL",
    }

    def __getattr__(self, name: str) -> str:
        """Reads an attribute from its variable; a test without it fails and says which."""
        variable = self._VARIABLES.get(name)
        if variable is None:
            raise AttributeError(name)
        if not os.environ.get(variable):
            pytest.fail(f"set {variable}: this test runs against {self.api_url}", pytrace=False)
        return os.environ[variable]


@pytest.fixture(scope="session")
def stack() -> Iterator[LocalSupabase | RemoteStack]:
    """A running Supabase without a worker; its predictions take a third of a second."""
    if os.environ.get("PICTURE_QUEUE_TEST_URL"):
        yield RemoteStack()
        return
    with LocalSupabase(replicate_seconds=0.3) as local:
        yield local


@pytest.fixture
async def service(stack: Any) -> AsyncIterator[AsyncPictureQueue]:
    """Our client with the service key."""
    async with AsyncPictureQueue(stack.api_url, stack.service_role_key) as pq:
        yield pq


@pytest.fixture
def queue() -> str:
    """A queue of the test's own."""
    return f"q-{uuid4().hex[:12]}"


@pytest.fixture
async def faults(stack: Any) -> AsyncIterator[Callable[..., Any]]:
    """Sets the gateway's fault switches; they are put right again after the test."""
    headers = {"apikey": stack.service_role_key}
    async with httpx.AsyncClient(base_url=stack.api_url, headers=headers, timeout=10) as http:

        async def set_(**switches: Any) -> None:
            (await http.post("/_faults", json=switches)).raise_for_status()

        yield set_
        await http.delete("/_faults")
