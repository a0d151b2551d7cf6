"""Errors of the client for objects of another user. tests/security tests all interfaces."""

from uuid import uuid4

import pytest
from supabase import AsyncClient

from picture_queue import errors


@pytest.fixture
async def generation_of_ada(ada, service, db):
    """Return a generation of Ada with an image row and its file."""
    started = await ada.pq.generations.start("a secret cat")
    path = f"{ada.id}/{started.id}/1.png"
    await db.execute(
        "insert into images (generation_id, user_id, n, path, mime_type) "
        "values ($1, $2, 1, $3, 'image/png')",
        started.id,
        ada.id,
        path,
    )
    storage = (await service._backend._api().client()).storage.from_("pictures")
    await storage.upload(path, b"\x89PNG", {"content-type": "image/png"})
    return started, path


async def select_all(client: AsyncClient, table: str) -> list:
    return (await client.table(table).select("*").execute()).data


async def test_the_owner_can_read_their_rows(ada, generation_of_ada):
    started, path = generation_of_ada
    assert [row["id"] for row in await select_all(ada.supabase, "generations")] == [str(started.id)]
    assert [row["id"] for row in await select_all(ada.supabase, "job_queue")] == [
        str(started.job_id)
    ]
    assert [row["path"] for row in await select_all(ada.supabase, "images")] == [path]
    assert await ada.supabase.storage.from_("pictures").download(path) == b"\x89PNG"


async def test_another_user_sees_no_row(generation_of_ada, bob):
    for table in ("job_queue", "generations", "images"):
        assert await select_all(bob.supabase, table) == []
    assert await bob.pq.jobs.list() == []
    assert await bob.pq.generations.list() == []


async def test_foreign_and_unknown_ids_get_the_same_error(generation_of_ada, bob):
    started, _ = generation_of_ada
    pq = bob.pq
    for foreign, missing, calls in (
        (started.job_id, uuid4(), (pq.jobs.get, pq.jobs.cancel)),
        (started.id, uuid4(), (pq.generations.get, pq.generations.cancel)),
    ):
        for call in calls:
            answers = []
            for object_id in (foreign, missing):
                with pytest.raises(errors.NotFound) as refused:
                    await call(object_id)
                answers.append(str(refused.value).replace(str(object_id), "<id>"))
            assert answers[0] == answers[1]
