"""The doctor finds a project whose API exposes the private schema."""

import asyncio
from typing import Any

from picture_queue.installation.checkup import examine_api
from picture_queue.settings import ProjectSettings

from ..databases import execute


async def _alter_authenticator(sandbox: Any, setting: str) -> None:
    superuser = sandbox.superuser_url
    await execute(superuser, f"alter role authenticator {setting}")
    await execute(superuser, "notify pgrst, 'reload config'; notify pgrst, 'reload schema'")


async def _wait_for_verdict(sandbox: Any, expected: str) -> str:
    """Wait until the check `schemas` has a verdict; return its detail."""
    settings = ProjectSettings.resolve(sandbox.api_url, sandbox.service_role_key)
    async with asyncio.timeout(30):
        while True:
            findings = (await examine_api(settings)).findings
            (found,) = (finding for finding in findings if finding.check == "schemas")
            if found.verdict == expected:
                return found.detail
            await asyncio.sleep(0.2)


async def test_an_exposed_private_schema_is_found(sandbox: Any):
    assert await _wait_for_verdict(sandbox, "ok") == "the schema picture_queue is not exposed"
    try:
        await _alter_authenticator(sandbox, "set pgrst.db_schemas = 'public, picture_queue'")
        assert await _wait_for_verdict(sandbox, "bad") == "the API exposes the schema picture_queue"
    finally:
        await _alter_authenticator(sandbox, "reset pgrst.db_schemas")
        await _wait_for_verdict(sandbox, "ok")
