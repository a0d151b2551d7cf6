"""A user who changes the password ends the other sessions; an administrator who does ends all."""

from typing import Any
from uuid import uuid4

import httpx
import pytest

OLD, NEW = "correct horse battery", "another horse battery"


@pytest.fixture
async def auth(sandbox: Any):
    async with httpx.AsyncClient(
        base_url=f"{sandbox.api_url}/auth/v1",
        headers={"apikey": sandbox.publishable_key},
        timeout=30,
    ) as http:
        yield http


async def sign_in(auth: httpx.AsyncClient, email: str, password: str) -> dict[str, Any]:
    answer = await auth.post(
        "/token?grant_type=password", json={"email": email, "password": password}
    )
    assert answer.status_code == 200, answer.text
    session: dict[str, Any] = answer.json()
    return session


async def is_valid(auth: httpx.AsyncClient, session: dict[str, Any]) -> bool:
    """Return True if a session is valid: its two tokens must be both accepted or both refused."""
    token = {"refresh_token": session["refresh_token"]}
    refreshed = await auth.post("/token?grant_type=refresh_token", json=token)
    bearer = {"authorization": f"Bearer {session['access_token']}"}
    user = await auth.get("/user", headers=bearer)
    assert (refreshed.status_code == 200) == (user.status_code == 200)
    return refreshed.status_code == 200


@pytest.fixture
async def email(auth: httpx.AsyncClient) -> str:
    address = f"{uuid4().hex}@example.com"
    await auth.post("/signup", json={"email": address, "password": OLD})
    return address


async def test_a_new_password_ends_the_other_sessions(auth: httpx.AsyncClient, email: str):
    stolen, own = await sign_in(auth, email, OLD), await sign_in(auth, email, OLD)
    bearer = {"authorization": f"Bearer {own['access_token']}"}
    updated = await auth.put("/user", json={"data": {"name": "Ada"}}, headers=bearer)
    assert updated.status_code == 200
    assert await is_valid(auth, stolen), "only a new password ends sessions"
    changed = await auth.put("/user", json={"password": NEW}, headers=bearer)
    assert changed.status_code == 200
    assert not await is_valid(auth, stolen)
    assert await is_valid(auth, own)
    assert await is_valid(auth, await sign_in(auth, email, NEW))


async def test_a_password_set_by_an_administrator_ends_all_sessions(
    auth: httpx.AsyncClient, email: str, sandbox: Any
):
    first = await sign_in(auth, email, OLD)
    url = f"/admin/users/{first['user']['id']}"
    key = {"authorization": f"Bearer {sandbox.service_role_key}"}
    assert (await auth.put(url, json={"role": None}, headers=key)).status_code == 200
    second = await sign_in(auth, email, OLD)
    assert (await auth.put(url, json={"password": NEW}, headers=key)).status_code == 200
    assert not await is_valid(auth, first) and not await is_valid(auth, second)
