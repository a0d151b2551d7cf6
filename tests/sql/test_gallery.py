"""The gallery in SQL: filters, pages, search, favourites, reuse, deletion and retention."""

from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest

MODEL = "black-forest-labs/flux-schnell"
START = "select start_generation($1, $2, $3, $4)"
LIST = "select list_generations($1)"


@pytest.fixture(autouse=True)
async def without_deletion_jobs(db):
    """Delete, inside the transaction of the test, the jobs that other test files have left."""
    await db.run("delete from job_queue where job_type = 'delete-pictures'")


async def insert_generation(db, prompt="a cat", *, user=None, status="completed", **columns):
    """Insert a generation that has ended, and whose job was pruned, with one picture."""
    generation_id = uuid4()
    await db.run(
        "insert into generations (id, user_id, job_id, model_id, prompt, status, created_at) "
        "values ($1, $2, gen_random_uuid(), $3, $4, $5, coalesce($6, picture_queue._now()))",
        generation_id,
        user,
        columns.get("model_id", MODEL),
        prompt,
        status,
        columns.get("created_at"),
    )
    await db.run(
        "insert into images (generation_id, user_id, n, path, mime_type) "
        "values ($1, $2, 1, $3, 'image/png')",
        generation_id,
        user,
        f"{user or 'shared'}/{generation_id}/1.png",
    )
    return generation_id


async def list_ids(db, **filter):
    """Return the ids of the generations that list_generations returns."""
    return [UUID(row["id"]) for row in await db.value(LIST, filter)]


async def finish(db, started):
    """Complete the job of a started generation, with one picture."""
    job_id, generation_id = UUID(started["job_id"]), UUID(started["generation_id"])
    for table, row_id in (("job_queue", job_id), ("generations", generation_id)):
        await db.run(
            f"update {table} set status = 'completed', finished_at = now() where id = $1", row_id
        )
    await db.run(
        "insert into images (generation_id, user_id, n, path, mime_type) "
        "select id, user_id, 1, 'p', 'image/png' from generations where id = $1",
        generation_id,
    )


async def deletion_jobs(db):
    """Return the unfinished jobs that delete files of generations."""
    return await db.rows(
        "select * from job_queue where job_type = 'delete-pictures' and finished_at is null "
        "order by seq"
    )


# --- Filters and pages ---


async def test_generations_are_listed_by_each_filter(db):
    user = uuid4()
    cat = await insert_generation(db, "a cat", user=user)
    dog = await insert_generation(db, "a dog", user=user, status="failed")
    sdxl = await insert_generation(db, "a bird", user=user, model_id="stability-ai/sdxl")
    await insert_generation(db, "a cat", user=uuid4())
    await db.value("select set_favourite($1)", dog)
    of_user = {"user_id": str(user)}
    assert await list_ids(db, **of_user) == [sdxl, dog, cat]
    assert await list_ids(db, **of_user, status="failed") == [dog]
    assert await list_ids(db, **of_user, model_id="stability-ai/sdxl") == [sdxl]
    await db.run("update generations set kind = 'upscale' where id = $1", cat)
    assert await list_ids(db, **of_user, kind="upscale") == [cat]
    assert await list_ids(db, **of_user, kind="upscale", search="dog") == []
    assert await list_ids(db, **of_user, kind="vector") == []
    assert await list_ids(db, **of_user, favourite=True) == [dog]
    assert await list_ids(db, **of_user, favourite=False) == [sdxl, cat]
    assert await list_ids(db, **of_user, search="cat") == [cat]
    assert await list_ids(db, **of_user, search="a", status="completed", favourite=False) == [
        sdxl,
        cat,
    ]


@pytest.mark.parametrize(
    "filter", [{"model_id": "me/rare"}, {"kind": "vector"}, {"favourite": True}]
)
async def test_a_list_with_a_rare_value_reads_few_rows(db, filter):
    """A list for a service key must not read all rows, which takes a second for a million."""
    await db.run(
        "insert into generations (job_id, model_id, prompt, status, created_at) "
        "select gen_random_uuid(), 'me/frequent', 'a cat', 'completed', now() - i * interval '1s' "
        "from generate_series(1, 20000) i"
    )
    rare = await insert_generation(
        db, model_id="me/rare", created_at=datetime.now(UTC) - timedelta(days=9)
    )
    await db.run("update generations set kind = 'vector', favourite = true where id = $1", rare)
    await db.run("analyze generations")
    read = (
        "select seq_tup_read + idx_tup_fetch from pg_stat_xact_user_tables "
        "where relid = 'public.generations'::regclass"
    )
    before = await db.value(read)
    assert rare in await list_ids(db, **filter)
    assert await db.value(read) - before < 1000


async def test_pages_neither_skip_nor_repeat_rows_of_the_same_time(db):
    user, moment = uuid4(), datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
    added = {
        await insert_generation(db, f"a cat {n}", user=user, created_at=moment) for n in range(7)
    }
    added.add(
        await insert_generation(
            db, "a cat", user=user, created_at=moment - timedelta(microseconds=1)
        )
    )
    for search in ({}, {"search": "cat"}):
        seen, before = [], {}
        while page := await db.value(LIST, {"user_id": str(user), "limit": 3, **before, **search}):
            seen += [UUID(row["id"]) for row in page]
            before = {"before": page[-1]["created_at"], "before_id": page[-1]["id"]}
        assert len(seen) == 8 and set(seen) == added
    # Without before_id, a page has only rows with an earlier time.
    older = {"user_id": str(user), "before": moment.isoformat()}
    assert len(await list_ids(db, **older)) == 1


@pytest.mark.parametrize(
    ("filter", "detail"),
    [
        ({"favourite": "yes"}, 'filter.favourite is "yes", not true or false'),
        ({"before_id": str(UUID(int=1))}, f"filter.before_id is {UUID(int=1)} without"),
        ({"search": ""}, "filter.search has 0 characters"),
        ({"search": "!?"}, 'filter.search is "!?", which has no word'),
        ({"search": 7}, "filter.search is 7, not text"),
        ({"user_id": "me"}, 'filter.user_id is "me", which is not a uuid'),
    ],
)
async def test_an_invalid_filter_is_refused(db, filter, detail):
    refused = await db.refusal(LIST, filter)
    assert refused.sqlstate == "PT400"
    assert refused.detail.startswith(detail)


# --- Search ---


async def test_a_search_finds_prompts_with_all_words_in_any_order_and_case(db):
    user = uuid4()
    found = await insert_generation(db, "A red LIGHTHOUSE, at dusk; café", user=user)
    await insert_generation(db, "a red boat", user=user)
    for words in ("lighthouse", "Dusk red", "CAFÉ", "red, lighthouse!"):
        assert await list_ids(db, user_id=str(user), search=words) == [found], words
    for words in ("light", "lighthouse boat", "blue"):
        assert await list_ids(db, user_id=str(user), search=words) == [], words


async def test_a_search_finds_old_rows_beyond_the_newest_page(db):
    """The words of the newest 500 rows are compared, and the index finds the others."""
    user, start = uuid4(), datetime(2026, 1, 1, tzinfo=UTC)
    old = await insert_generation(db, "a lighthouse", user=user, created_at=start)
    await db.run(
        "insert into generations (user_id, job_id, model_id, prompt, created_at) "
        "select $1, gen_random_uuid(), 'm', 'a cat', $2::timestamptz + i * interval '1 second' "
        "from generate_series(1, 1200) i",
        user,
        start,
    )
    assert await list_ids(db, user_id=str(user), search="lighthouse") == [old]
    assert len(await list_ids(db, user_id=str(user), search="cat", limit=1000)) == 1000


async def test_a_user_finds_only_their_own_prompts(db):
    ada, eve = uuid4(), uuid4()
    own = await insert_generation(db, f"a secret {eve}", user=ada)
    await insert_generation(db, "a secret", user=eve)
    await db.act_as("authenticated", ada)
    assert await list_ids(db, search="secret") == [own]
    assert await list_ids(db, search="secret", user_id=str(eve)) == []
    await db.act_as("authenticated", uuid4())
    assert await list_ids(db, search="secret") == []


async def test_a_prompt_of_any_length_is_stored_and_searched_by_its_first_words(db):
    """A tsvector has a maximum size, so only the first 20,000 characters are in the index."""
    user = uuid4()
    prompt = "begin " + " ".join(f"word{n}" for n in range(200_000)) + " " + "x" * 5000
    generation = await insert_generation(db, prompt, user=user)
    assert await list_ids(db, user_id=str(user), search="begin word7") == [generation]


async def test_a_word_behind_half_a_megabyte_of_newer_prompts_is_found(db):
    user = uuid4()
    wanted = await insert_generation(
        db, "a lighthouse", user=user, created_at=datetime(2026, 1, 1, tzinfo=UTC)
    )
    for _ in range(60):
        prompt = " ".join(uuid4().hex for _ in range(300))  # 10 kB that cannot be compressed
        await insert_generation(db, prompt, user=user)
    assert await list_ids(db, user_id=str(user), search="lighthouse") == [wanted]


async def test_a_search_for_more_than_32_words_is_refused(db):
    words = [f"w{i}" for i in range(33)]
    assert await list_ids(db, search=" ".join(words[:32])) == []
    refused = await db.refusal(LIST, {"search": " ".join(words)})
    assert refused.detail == "filter.search has 33 words, the limit is 32"


# --- Favourites ---


async def test_only_the_owner_marks_a_favourite(db):
    ada = uuid4()
    generation = await insert_generation(db, user=ada)
    await db.act_as("authenticated", uuid4())
    refused = await db.refusal("select set_favourite($1)", generation)
    assert refused.sqlstate == "PT404"
    await db.act_as("authenticated", ada)
    for favourite in (True, True, False, False):
        row = await db.value("select set_favourite($1, $2)", generation, favourite)
        assert (row["favourite"], len(row["images"])) == (favourite, 1)
    assert (await db.value("select set_favourite($1, null)", generation))["favourite"]


# --- Reuse ---


async def test_an_equal_finished_picture_is_reused_if_asked_for(db):
    options = {"user_id": str(uuid4()), "reuse": True}
    first = await db.value(START, "a cat", MODEL, {"seed": 7}, options)
    assert "reused" not in first
    running = await db.value(START, "a cat", MODEL, {"seed": 7}, options)
    assert running["generation_id"] != first["generation_id"], "the first had not finished"
    await finish(db, first)
    again = await db.value(START, "a cat", MODEL, {"seed": 7}, options)
    assert again == {**first, "status": "completed", "reused": True}
    count = "select count(*) from generations where user_id = $1"
    assert await db.value(count, UUID(options["user_id"])) == 2


@pytest.mark.parametrize(
    "change",
    [
        {"prompt": "a dog"},
        {"input": {"seed": 8}},
        {"input": {}},
        {"model": "black-forest-labs/flux-dev"},
        {"options": {"reuse": False}},
        {"options": {"reuse": True, "user_id": str(UUID(int=7))}},
        {"sql": "update picture_queue.model set version = 'newer'"},
        {"sql": "delete from images"},
        {"sql": "update generations set status = 'failed'"},
        {"sql": "select delete_generation(id) from generations where status = 'completed'"},
    ],
    ids=str,
)
async def test_a_different_generation_is_not_reused(db, change):
    user = str(uuid4())
    first = await db.value(START, "a cat", MODEL, {"seed": 7}, {"user_id": user})
    await finish(db, first)
    if "sql" in change:
        await db.run(change["sql"])
    second = await db.value(
        START,
        change.get("prompt", "a cat"),
        change.get("model", MODEL),
        change.get("input", {"seed": 7}),
        {"user_id": user, "reuse": True, **change.get("options", {})},
    )
    assert second["generation_id"] != first["generation_id"]


# --- Deletion ---


async def test_a_deleted_generation_is_hidden_at_once_and_removed_after_its_files(db):
    ada = uuid4()
    generation = await insert_generation(db, user=ada)
    await db.act_as("authenticated", ada)
    request = uuid4()
    expected = {"generation_id": str(generation), "deleted": True}
    for _ in range(2):
        assert await db.value("select delete_generation($1, $2)", generation, request) == expected
    assert await list_ids(db) == []
    assert await db.value("select count(*) from images") == 0
    refused = await db.refusal("select get_generation($1)", generation)
    assert refused.sqlstate == "PT404"
    await db.run("reset role")
    await db.value("select set_config('request.jwt.claims', '', true)")
    (job,) = await deletion_jobs(db)
    assert job["payload"] == {"generation_ids": [str(generation)]}
    assert job["user_id"] is None

    # The rows stay until the files are deleted.
    await db.value("select picture_queue.prune()")
    (found,) = await db.value("select list_deleted_generations($1)", [generation])
    assert found["paths"] == [f"{ada}/{generation}/1.png"]
    assert found["folder"] == f"{ada}/{generation}"
    for recorded in (1, 0):  # a repeated call records nothing
        answer = await db.value("select record_deleted_files($1)", [generation])
        assert answer == {"recorded": recorded}
    assert await db.value("select list_deleted_generations($1)", [generation]) == []
    done = await db.value("select picture_queue.prune()")
    assert done["removed_generations"] == 1
    assert await db.value("select count(*) from generations where id = $1", generation) == 0
    assert await db.value("select count(*) from images where generation_id = $1", generation) == 0

    # A call with the same request id gets the same answer; a call with a new id gets an error.
    await db.act_as("authenticated", ada)
    assert await db.value("select delete_generation($1, $2)", generation, request) == expected
    refused = await db.refusal("select delete_generation($1, $2)", generation, uuid4())
    assert refused.sqlstate == "PT404"
    await db.act_as("authenticated", uuid4())
    refused = await db.refusal("select delete_generation($1, $2)", generation, request)
    assert refused.sqlstate == "PT404"


async def test_another_user_cannot_delete_a_generation(db):
    generation = await insert_generation(db, user=uuid4())
    await db.act_as("authenticated", uuid4())
    refused = await db.refusal("select delete_generation($1)", generation)
    assert refused.sqlstate == "PT404"


async def test_an_unfinished_generation_is_refused_until_it_is_cancelled(db):
    started = await db.value(START, "a cat", MODEL, {}, {})
    generation = UUID(started["generation_id"])
    refused = await db.refusal("select delete_generation($1)", generation)
    assert refused.sqlstate == "PT409"
    assert refused.detail == f"generation {generation} is pending"
    assert refused.hint.startswith("cancel_generation() first")
    await db.value("select cancel_generation($1)", generation)
    await db.value("select delete_generation($1)", generation)
    # A retry of its job finds no generation, so nothing is paid for.
    await db.value("select retry_job($1)", UUID(started["job_id"]))
    await db.value("select register_worker('w1', '{default}', '{\"generate-image\": {}}')")
    jobs = await db.value("select claim_jobs('w1', '{default}', '{generate-image}', 100)")
    (job,) = [job for job in jobs if job["id"] == started["job_id"]]
    refused = await db.refusal(
        "select begin_prediction($1, $2)", UUID(job["id"]), UUID(job["lease_id"])
    )
    assert refused.sqlstate == "PT404"


async def test_a_deleted_generation_is_kept_while_its_prediction_is_under_two_hours_old(db):
    """A search for a lost prediction could otherwise find this prediction and take it."""
    generation = await insert_generation(db)
    await db.run(
        "insert into picture_queue.prediction (job_id, generation_id, attempt, model_id, input, "
        "state, prediction_id) values (gen_random_uuid(), $1, 1, 'm', '{}', 'succeeded', $2)",
        generation,
        uuid4().hex,
    )
    await db.value("select delete_generation($1)", generation)
    await db.value("select record_deleted_files($1)", [generation])
    count = "select count(*) from generations where id = $1"
    await db.value("select picture_queue.prune()")
    assert await db.value(count, generation) == 1
    await db.pass_time(7210)
    await db.value("select picture_queue.prune()")
    assert await db.value(count, generation) == 0


async def test_a_deletion_whose_job_failed_is_enqueued_again_after_a_day(db):
    generation = await insert_generation(db)
    await db.value("select delete_generation($1)", generation)
    (job,) = await deletion_jobs(db)
    await db.pass_time(86_410)
    await db.value("select picture_queue.prune()")
    unfinished_jobs = [found["id"] for found in await deletion_jobs(db)]
    assert unfinished_jobs == [job["id"]], "no second job while the first has not ended"
    await db.run(
        "update job_queue set status = 'failed', hold = null, finished_at = picture_queue._now() "
        "where id = $1",
        job["id"],
    )
    await db.value("select picture_queue.prune()")
    assert await deletion_jobs(db) == [], "the next job is due a day after the last check"
    await db.pass_time(86_410)
    await db.value("select picture_queue.prune()")
    (again,) = await deletion_jobs(db)
    assert again["payload"] == job["payload"]


async def test_a_draining_queue_accepts_the_job_of_a_deletion(db):
    generation = await insert_generation(db)
    await db.value("select drain_queue('default')")
    await db.value("select delete_generation($1)", generation)
    assert len(await deletion_jobs(db)) == 1


# --- Retention ---


async def test_generations_are_kept_forever_by_default(db):
    generation = await insert_generation(db, created_at=datetime(2001, 1, 1, tzinfo=UTC))
    assert (await db.value("select get_settings()"))["keep_generations_days"] is None
    await db.value("select picture_queue.prune()")
    assert await db.value("select get_generation($1)", generation)


async def test_ten_thousand_old_generations_are_deleted_in_bounded_steps(db):
    await db.value("select set_setting($1)", {"keep_generations_days": 30})
    await db.run("delete from generations where created_at < now() - interval '30 days'")
    await db.run(
        "insert into generations (job_id, model_id, prompt, status, created_at) "
        "select gen_random_uuid(), 'm', 'a cat', "
        "case when i <= 10000 then 'completed' else 'processing' end, "
        "picture_queue._now() - interval '31 days' from generate_series(1, 10005) i"
    )
    new = await insert_generation(db)
    before = len(await deletion_jobs(db))
    rounds = 0
    while (done := await db.value("select picture_queue.prune(0)"))["deleted_generations"]:
        assert done["deleted_generations"] == 1000
        assert done["more"]
        rounds += 1
    assert rounds == 10
    assert not done["more"]
    jobs = (await deletion_jobs(db))[before:]
    payloads = [job["payload"]["generation_ids"] for job in jobs]
    assert [len(payload) for payload in payloads] == [100] * 100
    assert len({found for payload in payloads for found in payload}) == 10_000
    old = (
        "select count(*) from generations where prompt = 'a cat' "
        "and created_at < picture_queue._now() - interval '30 days' "
    )
    assert await db.value(old + "and not deleted") == 5, "the five that still run"
    assert await db.value("select get_generation($1)", new)

    for payload in payloads:
        await db.value("select record_deleted_files($1)", [UUID(found) for found in payload])
    rounds = 0
    while (done := await db.value("select picture_queue.prune(0)"))["removed_generations"]:
        assert done["removed_generations"] == 1000
        rounds += 1
    assert rounds == 10
    assert await db.value(old) == 5


async def test_a_generation_that_cannot_be_removed_does_not_stop_the_removal_of_another(db):
    kept, removed = await insert_generation(db), await insert_generation(db)
    await db.run("create table public.album (picture uuid references public.generations (id))")
    await db.run("insert into public.album values ($1)", kept)
    for generation in (kept, removed):
        await db.value("select delete_generation($1)", generation)
    await db.value("select record_deleted_files($1)", [kept, removed])
    await db.value("select picture_queue.prune()")
    left = "select array_agg(id) from generations where id = any ($1)"
    assert await db.value(left, [kept, removed]) == [kept]
    failed = "select last_error from picture_queue.failed_step where subject = $1"
    assert "album" in await db.value(failed, str(kept))


@pytest.mark.parametrize("removed", [False, True])
@pytest.mark.parametrize("option", ["generation_id", "idempotency_key"])
async def test_a_start_that_repeats_a_deleted_generation_is_refused(db, option, removed):
    """A start must not return the status of a generation that get_generation does not find."""
    user = uuid4()
    options = {option: str(uuid4())}
    await db.act_as("authenticated", user)
    started = await db.value(START, "a cat", MODEL, {}, options)
    await db.act_as(None)
    await finish(db, started)
    await db.value("select delete_generation($1)", UUID(started["generation_id"]))
    if removed:
        await db.run("delete from generations where id = $1", UUID(started["generation_id"]))
    await db.act_as("authenticated", user)
    for then in ([], [{"kind": "upscale"}]):
        refused = await db.refusal(START, "a cat", MODEL, {}, {**options, "then": then})
        assert refused.message.startswith("PQ_CONFLICT")
        assert f"options.{option} is" in refused.detail and "deleted" in refused.detail
    await db.act_as(
        "authenticated", uuid4()
    )  # the error must not reveal that the id of another user was deleted
    other = await db.refusal(START, "a cat", MODEL, {}, {"generation_id": started["generation_id"]})
    assert "deleted" not in (other.detail or "")


async def test_a_start_that_repeats_a_deleted_batch_is_refused(db):
    call, options = "select start_generations($1, $2)", {"batch_id": str(uuid4())}
    started = await db.value(call, [{"prompt": "a cat"}, {"prompt": "a dog"}], options)
    for generation in started["generations"]:
        assert (await db.value(call, [], options))["generations"]
        await finish(db, generation)
        await db.value("select delete_generation($1)", UUID(generation["generation_id"]))
    refused = await db.refusal(call, [{"prompt": "a cat"}], options)
    assert refused.message.startswith("PQ_CONFLICT") and "deleted" in refused.detail
