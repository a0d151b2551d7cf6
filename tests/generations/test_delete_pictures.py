"""Deleted generations: a worker deletes their files in Storage, whatever fails on the way."""

import asyncio
from uuid import UUID, uuid4

import pytest

from picture_queue import AsyncPictureQueue, WorkerSettings
from picture_queue._transport.base import StorageCall
from picture_queue.errors import ConnectionFailed, GenerationNotFound, JobRunning, NotFound
from picture_queue.generations import delete_pictures
from picture_queue.generations.builtin import builtin_worker
from picture_queue.generations.delete_pictures import JOB_TYPE, delete_files

MODEL = "black-forest-labs/flux-schnell"


async def add_generation(db, service, *names, user=None):
    """Insert a completed generation, and store its files; the first file is its picture."""
    generation_id = uuid4()
    folder = f"{user or 'shared'}/{generation_id}"
    await db.execute(
        "insert into generations (id, user_id, job_id, model_id, prompt, status) "
        "values ($1, $2, gen_random_uuid(), $3, 'a cat', 'completed')",
        generation_id, user, MODEL,
    )  # fmt: skip
    for name in names:
        call = StorageCall(
            "POST", f"object/pictures/{folder}/{name}", b"data", {"Content-Type": "image/png"}
        )
        await service._backend.storage(call)
    await db.execute(
        "insert into images (generation_id, user_id, n, path, mime_type) "
        "values ($1, $2, 1, $3, 'image/png')",
        generation_id, user, f"{folder}/{names[0]}",
    )  # fmt: skip
    return generation_id


async def count_files(db, *generations):
    return await db.fetchval(
        "select count(*) from storage.objects o where bucket_id = 'pictures' "
        "and exists (select from unnest($1::uuid[]) g where o.name like '%/' || g || '/%')",
        list(generations),
    )


async def count_rows(db, *generations):
    return await db.fetchval(
        "select count(*) from generations where id = any ($1::uuid[])", list(generations)
    )


async def count_undeleted(db, *generations):
    """Return the number of generations that are marked as deleted and still have files."""
    return await db.fetchval(
        "select count(*) from picture_queue.deleted_generation "
        "where remove_at is null and generation_id = any ($1::uuid[])",
        list(generations),
    )


@pytest.fixture
async def worker(service):
    """The built-in worker, which deletes pictures without a Replicate token too."""
    worker = builtin_worker(service, WorkerSettings(poll_interval=0.2, shutdown_grace=5.0))
    assert worker.job_types == (JOB_TYPE,)
    async with worker:
        yield worker


async def test_a_worker_deletes_all_files_of_the_folder_and_maintenance_the_rows(
    service, db, worker, until
):
    other = await add_generation(db, service, "1.png")
    # A worker that died before it saved the row has left 2.png and a file in a subfolder.
    generation = await add_generation(
        db, service, "1.png", "2.png", "thumbnails/1.webp", user=uuid4()
    )
    assert await count_files(db, generation) == 3
    picture = (await service.generations.get(generation)).images[0]
    await service.generations.delete(generation)
    with pytest.raises(GenerationNotFound):
        await service.generations.get(generation)
    await until(lambda: _is_zero(count_undeleted(db, generation)))
    assert await count_files(db, generation) == 0
    with pytest.raises(NotFound):
        await service.generations.download(picture)
    await service.maintain(force=True)
    assert await count_rows(db, generation) == 0
    assert (await count_files(db, other), await count_rows(db, other)) == (1, 1)


async def test_an_unfinished_generation_cannot_be_deleted(service):
    started = await service.generations.start("a cat", MODEL)
    with pytest.raises(JobRunning) as refused:
        await service.generations.delete(started.id)
    assert str(started.id) in refused.value.detail
    await service.generations.cancel(started.id)
    await service.generations.delete(started.id)


async def test_a_user_reads_no_file_after_the_deletion_and_others_cannot_delete(
    service, db, stack, until, worker
):
    import httpx

    clients = []
    async with httpx.AsyncClient(base_url=stack.api_url, timeout=10) as http:
        for _ in range(2):
            answer = await http.post(
                "/auth/v1/signup",
                json={"email": f"{uuid4().hex}@example.com", "password": "correct horse battery"},
                headers={"apikey": stack.anon_key},
            )
            session = answer.json()
            client = AsyncPictureQueue(
                stack.api_url, stack.anon_key, access_token=session["access_token"]
            )
            clients.append((client, UUID(session["user"]["id"])))
    (ada, ada_id), (eve, _) = clients
    async with ada, eve:
        generation = await add_generation(db, service, "1.png", user=ada_id)
        (generation_of_ada,) = await ada.generations.list(search="cat")
        assert (await ada.generations.set_favourite(generation_of_ada.id)).favourite
        assert await ada.generations.download(generation_of_ada.images[0]) == b"data"
        for call in (eve.generations.delete, eve.generations.set_favourite):
            with pytest.raises(GenerationNotFound):
                await call(generation)
        await ada.generations.delete(generation)
        assert await ada.generations.list() == []
        await until(lambda: _is_zero(count_undeleted(db, generation)))
        with pytest.raises(NotFound):
            await ada.generations.download(generation_of_ada.images[0])


# --- Failures between the steps ---


async def test_a_crash_after_each_call_leaves_work_that_the_next_attempt_finishes(
    service, db, monkeypatch
):
    """Stop before the n-th call of Storage or the database, for each n, then try again."""
    backend = service._backend
    for stop_at in range(1, 12):
        generation = await add_generation(db, service, "1.png", "2.png")
        await service.generations.delete(generation)
        calls = 0

        async def crash(real, *args, stop_at=stop_at):
            nonlocal calls
            calls += 1
            if calls >= stop_at:
                raise asyncio.CancelledError
            return await real(*args)

        with monkeypatch.context() as patched:
            for name in ("call", "storage"):
                real = getattr(backend, name)
                patched.setattr(backend, name, lambda *args, real=real: crash(real, *args))
            try:
                await delete_files(backend, [generation])
                crashed = False
            except asyncio.CancelledError:
                crashed = True
        assert await count_rows(db, generation) == 1
        if crashed:
            # No row is marked as done while a file is left.
            assert await count_undeleted(db, generation) == 1
            await delete_files(backend, [generation])
        assert (await count_files(db, generation), await count_undeleted(db, generation)) == (0, 0)
        await service.maintain(force=True)
        assert await count_rows(db, generation) == 0
        if not crashed:
            break
    assert stop_at == 6, "there are five calls: two lists of files, and one of each other kind"


async def test_a_failure_of_one_generation_does_not_stop_the_others(service, db, monkeypatch):
    broken, fine = (
        await add_generation(db, service, "1.png"),
        await add_generation(db, service, "1.png"),
    )
    for one in (broken, fine):
        await service.generations.delete(one)
    real = service._backend.storage

    async def refuse(call, timeout=None):
        if str(broken).encode() in (call.content or b"") and call.method == "DELETE":
            raise ConnectionFailed("No answer")
        return await real(call, timeout)

    with monkeypatch.context() as patched:
        patched.setattr(service._backend, "storage", refuse)
        with pytest.raises(ConnectionFailed, match="No answer"):
            await delete_files(service._backend, [broken, fine])
    assert (await count_files(db, fine), await count_undeleted(db, fine)) == (0, 0)
    assert (await count_files(db, broken), await count_undeleted(db, broken)) == (1, 1)
    assert await delete_files(service._backend, [broken, fine]) == {"generations": 1, "files": 1}


async def test_a_file_that_storage_does_not_delete_keeps_the_row(service, db, monkeypatch):
    """Storage answers 200 with an empty list if the key may not delete the files."""
    generation = await add_generation(db, service, "1.png")
    await service.generations.delete(generation)
    real = service._backend.storage

    async def ignore(call, timeout=None):
        return b"[]" if call.method == "DELETE" else await real(call, timeout)

    with monkeypatch.context() as patched:
        patched.setattr(service._backend, "storage", ignore)
        patched.setattr(delete_pictures, "_MAX_PAGES", 3)
        with pytest.raises(ConnectionFailed, match="does not delete the files"):
            await delete_files(service._backend, [generation])
    assert await count_undeleted(db, generation) == 1


async def test_files_of_generations_that_are_not_deleted_are_never_touched(service, db):
    generation = await add_generation(db, service, "1.png")
    assert await delete_files(service._backend, [generation, uuid4()]) == {
        "generations": 0,
        "files": 0,
    }
    assert await count_files(db, generation) == 1


async def _is_zero(count):
    return await count == 0
