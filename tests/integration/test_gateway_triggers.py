"""Triggers of a project on the tables of Auth, and the privileges with which they run."""

from collections.abc import AsyncIterator
from uuid import uuid4

import httpx
import pytest

PROFILES = """
set local role postgres;
create table public.profiles (id uuid primary key references auth.users (id) on delete cascade);
create function public.make_profile() returns trigger language plpgsql {security} as $$
begin
  insert into public.profiles (id) values (new.id);
  return new;
end $$;
create trigger make_profile after insert on auth.users
  for each row execute function public.make_profile();
"""
DROP_PROFILES = """
drop trigger make_profile on auth.users; drop function public.make_profile();
drop table public.profiles;
"""
DEFINER = "security definer set search_path = public"


@pytest.fixture
async def profiles(request, platform) -> AsyncIterator[None]:
    """A trigger that inserts a profile for each new user; yields a connection.

    The guides of Supabase recommend this trigger with SECURITY DEFINER.
    """
    async with platform.connect() as sql:
        async with sql.transaction():
            await sql.execute(PROFILES.format(security=request.param))
        yield sql
        await sql.execute(DROP_PROFILES)


@pytest.fixture
async def http(gateway, platform):
    headers = {"apikey": platform.settings.secret_key}
    async with httpx.AsyncClient(base_url=gateway, headers=headers, timeout=20) as client:
        yield client


def new_account() -> dict[str, str]:
    return {"email": f"{uuid4().hex}@example.com", "password": "correct horse battery"}


@pytest.mark.parametrize("profiles", [DEFINER], indirect=True)
async def test_a_security_definer_trigger_inserts_profiles(profiles, http):
    response = await http.post("/auth/v1/signup", json=new_account())
    assert response.status_code == 200
    user = response.json()["user"]["id"]
    assert await profiles.fetchval("select id::text from public.profiles") == user
    assert (await http.delete(f"/auth/v1/admin/users/{user}")).status_code == 200
    assert await profiles.fetchval("select count(*) from public.profiles") == 0


@pytest.mark.parametrize("path", ["signup", "admin/users"])
@pytest.mark.parametrize("profiles", [""], indirect=True)
async def test_a_security_invoker_trigger_fails_as_on_the_platform(profiles, http, path):
    answer = await http.post(f"/auth/v1/{path}", json=new_account())
    assert (answer.status_code, answer.json()) == (
        500,
        {
            "code": 500,
            "error_code": "unexpected_failure",
            "msg": "Database error saving new user",
        },
    )
    assert await profiles.fetchval("select count(*) from public.profiles") == 0
