"""A user can neither see nor change objects of another user through the client.

tests/security has the same tests for all interfaces.
"""

from uuid import uuid4

import pytest
from supabase import AsyncClient

from picture_queue import errors


@pytest.fixture
async def generation_of_ada(ada, service, db):
    """Return a generation of Ada that has an image, and the path of the image's file."""
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


async def test_the_id_of_another_user_and_an_unknown_id_get_the_same_error(generation_of_ada, bob):
    started, _ = generation_of_ada
    pq = bob.pq
    for id_of_ada, calls in (
        (started.job_id, (pq.jobs.get, pq.jobs.cancel)),
        (started.id, (pq.generations.get, pq.generations.cancel)),
    ):
        for call in calls:
            messages = []
            for object_id in (id_of_ada, uuid4()):
                with pytest.raises(errors.NotFound) as raised:
                    await call(object_id)
                messages.append(str(raised.value).replace(str(object_id), "<id>"))
            assert messages[0] == messages[1]
