"""Fixtures: a project with data of two users, and a stack on Debian's Postgres."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest

from picture_queue.local.stack import LocalSupabase
from tests.security.sample_project import SampleProject, create_sample_project

from ..databases import execute

DEBIAN_POSTGRES_15 = Path("/usr/lib/postgresql/15/bin")
# Otherwise each client would create an SSL context, which is slow.
_TLS = ssl.create_default_context()


@pytest.fixture(scope="session")
def sandbox() -> Iterator[LocalSupabase]:
    """A separate stack for these tests, because the attacks may change or damage it."""
    with LocalSupabase() as stack:
        yield stack


@pytest.fixture(scope="module")
def shared_project(sandbox: Any) -> SampleProject:
    """Two new users on this stack, one of them with jobs, generations and images."""

    async def fill() -> SampleProject:
        async with httpx.AsyncClient(base_url=sandbox.api_url, timeout=30, verify=_TLS) as http:
            return await create_sample_project(sandbox, http)

    return asyncio.run(fill())


@pytest.fixture
async def project(shared_project: SampleProject) -> AsyncIterator[SampleProject]:
    """The shared project, with separate HTTP connections for each test."""
    async with httpx.AsyncClient(base_url=shared_project.api_url, timeout=30, verify=_TLS) as http:
        yield replace(shared_project, http=http)


@pytest.fixture
async def admin(sandbox: Any) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    """A connection as the role that applies the migrations."""
    connection = await asyncpg.connect(sandbox.db_url, timeout=10)
    yield connection
    await connection.close(timeout=5)


@pytest.fixture(scope="module")
def debian() -> Iterator[LocalSupabase]:
    """A stack on Debian's Postgres 15, in which a superuser installed plpgsql_check."""
    control = Path("/usr/share/postgresql/15/extension/plpgsql_check.control")
    if not (DEBIAN_POSTGRES_15 / "initdb").exists() or not control.exists():
        pytest.fail("plpgsql_check is missing: apt-get install postgresql-15-plpgsql-check")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PICTURE_QUEUE_POSTGRES_BIN", str(DEBIAN_POSTGRES_15))
        with LocalSupabase() as stack:
            extension = "create extension plpgsql_check schema extensions"
            asyncio.run(execute(stack.superuser_url, extension))
            yield stack
