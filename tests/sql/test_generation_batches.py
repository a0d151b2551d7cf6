"""Chains and batches of generations in SQL."""

import asyncio
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from tests.databases import connect

from .conftest import Database

MODEL = "black-forest-labs/flux-schnell"
START = "select start_generation($1, options => $2)"
START_MANY = "select start_generations($1, $2)"
UPSCALE = {"kind": "upscale"}
REMOVE = {"kind": "background-removal"}
IMAGE = {"path": "p/1.png", "mime_type": "image/png", "width": 1, "height": 1, "bytes": 9}


async def use_own_queue(db: Database) -> None:
    """Put the jobs of generations into the queue of the test."""
    types = ["generate-image", "upscale-image", "remove-background", "edit-image", "vary-image"]
    policies = {name: {"queue": db.queue, "max_attempts": 2} for name in types}
    await db.value("select register_worker('w1', $1, $2)", types, policies)


async def claim(db: Database, n: int = 100) -> list[dict[str, Any]]:
    types = ("generate-image", "upscale-image", "remove-background", "edit-image", "vary-image")
    return await db.claim(n, *types)


async def complete(db: Database, job: dict[str, Any], images: int = 1) -> None:
    """Store pictures of a generation, and report its job."""
    items = [{**IMAGE, "n": n, "path": f"shared/{job['id']}/{n}.png"} for n in range(1, images + 1)]
    lease = UUID(job["id"]), UUID(job["lease_id"])
    await db.value("select begin_prediction($1, $2)", *lease)
    await db.value("select save_images($1, $2, $3)", *lease, items)
    assert (await db.report(job, "completed"))["outcome"] == "ok"


async def batch(db: Database, batch_id: str) -> dict[str, Any]:
    return await db.value("select generation_batch($1)", UUID(batch_id))


async def statuses(db: Database, batch_id: str) -> list[str]:
    return [entry["status"] for entry in (await batch(db, batch_id))["generations"]]


async def test_the_steps_of_a_chain_run_one_after_the_other(db):
    await use_own_queue(db)
    chain = await db.value(START, "a cat", {"then": [UPSCALE, REMOVE]})
    assert set(chain) == {"generation_id", "job_id", "status", "batch_id", "steps"}
    ids = [chain["generation_id"], *(step["generation_id"] for step in chain["steps"])]
    types = ["generate-image", "upscale-image", "remove-background"]
    reference = None
    for generation_id, job_type in zip(ids, types, strict=True):
        (job,) = await claim(db)
        assert (job["job_type"], job["generation_id"]) == (job_type, generation_id)
        begun = await db.value(
            "select begin_prediction($1, $2)", UUID(job["id"]), UUID(job["lease_id"])
        )
        if reference:
            assert begun["prediction"]["input"]["image"] == reference
            assert begun["files"][reference].startswith("pictures/shared/")
        else:
            assert begun["files"] == {}
        await complete(db, job)
        reference = f"generation:{generation_id}"
    assert (await batch(db, chain["batch_id"]))["status"] == "completed"


async def test_a_batch_shows_counts_progress_and_status(db):
    await use_own_queue(db)
    chain = await db.value(START, "a cat", {"then": [UPSCALE]})
    whole = await batch(db, chain["batch_id"])
    assert [entry["position"] for entry in whole["generations"]] == [0, 0]
    assert [entry["step"] for entry in whole["generations"]] == [0, 1]
    assert [entry["hold"] for entry in whole["generations"]] == [None, "waiting"]
    assert (whole["status"], whole["total"], whole["progress"]) == ("pending", 2, 0)
    (job,) = await claim(db)
    await db.value("select report_progress($1, $2, 50)", UUID(job["id"]), UUID(job["lease_id"]))
    whole = await batch(db, chain["batch_id"])
    assert (whole["status"], whole["progress"]) == ("processing", 25)
    await complete(db, job)
    whole = await batch(db, chain["batch_id"])
    assert (whole["status"], whole["completed"], whole["progress"]) == ("processing", 1, 50)
    (job,) = await claim(db)
    await complete(db, job)
    whole = await batch(db, chain["batch_id"])
    assert (whole["status"], whole["completed"], whole["progress"]) == ("completed", 2, 100)
    jobs = await db.value("select get_batch($1)", UUID(chain["batch_id"]))
    assert (jobs["total"], jobs["completed"], jobs["finished_at"] is not None) == (2, 2, True)


async def test_a_failed_step_cancels_and_refunds_the_later_steps(db):
    await use_own_queue(db)
    user = uuid4()
    await db.value("select set_budget($1, '{\"needs_credits\": true}')", f"user:{user}")
    await db.value("select grant_credits($1, 1, 'test')", user)
    options = {"then": [UPSCALE, REMOVE], "user_id": str(user)}
    chain = await db.value(START, "a cat", options)
    (first,) = await claim(db)
    await complete(db, first)
    (second,) = await claim(db)
    await db.report(second, "failed", error="no", retryable=False)
    whole = await batch(db, chain["batch_id"])
    assert [entry["status"] for entry in whole["generations"]] == [
        "completed", "failed", "cancelled",
    ]  # fmt: skip
    assert "depends on" in whole["generations"][2]["error"]
    assert (whole["status"], whole["progress"]) == ("failed", 100)
    assert whole["cost_usd"] == 0.003
    account = await db.value("select get_account($1)", user)
    assert float(account["credits_usd"]) == 0.997
    images = await db.value(
        "select count(*) from images where generation_id = $1", UUID(chain["generation_id"])
    )
    assert images == 1


async def test_a_missing_credit_for_a_step_refuses_the_whole_chain(db):
    user = uuid4()
    await db.value("select set_budget($1, '{\"needs_credits\": true}')", f"user:{user}")
    await db.value("select grant_credits($1, 0.006, 'test')", user)
    options = {"then": [UPSCALE, {"model_id": MODEL_EDIT, "prompt": "more"}], "user_id": str(user)}
    refused = await db.refusal(START, "a cat", options)
    assert refused.message.startswith("PQ_NO_CREDIT: ")
    assert refused.detail.startswith("options.then[1]: credits_usd is 0.001")
    for table in ("generations", "job_queue", "picture_queue.batch"):
        assert await db.value(f"select count(*) from {table} where user_id = $1", user) == 0
    assert float((await db.value("select get_account($1)", user))["credits_usd"]) == 0.006


MODEL_EDIT = "black-forest-labs/flux-kontext-pro"


@pytest.mark.parametrize(
    ("then", "code", "detail"),
    [
        ("upscale", "PQ_INVALID_ARGUMENT", "options.then is not a list"),
        ([UPSCALE] * 6, "PQ_INVALID_ARGUMENT", "options.then has 6 steps, at most 5 are possible"),
        (["x"], "PQ_INVALID_ARGUMENT", "options.then[0] is not an object"),
        ([UPSCALE, {}], "PQ_INVALID_ARGUMENT", "options.then[1] has neither model_id nor kind"),
        ([{**UPSCALE, "seed": 1}], "PQ_INVALID_ARGUMENT", "options.then[0].seed is not known"),
        (
            [UPSCALE, {"model_id": MODEL, "prompt": "x"}],
            "PQ_INVALID_INPUT",
            f"options.then[1].model_id is '{MODEL}', which takes no picture",
        ),
        (
            [UPSCALE, {"model_id": "nobody/nothing"}],
            "PQ_UNKNOWN_MODEL",
            "options.then[1].model_id is 'nobody/nothing'",
        ),
        (
            [{"model_id": "tencentarc/gfpgan", "input": {"img": "https://x/y"}}],
            "PQ_INVALID_INPUT",
            "options.then[0].input.img is given, but it gets the picture of the previous step",
        ),
        (
            [{"kind": "upscale", "input": {"scale": 1000}}],
            "PQ_INVALID_INPUT",
            "options.then[0].input.scale is 1000 and is above 10",
        ),
        (
            [{"kind": "image-edit"}],
            "PQ_INVALID_INPUT",
            "options.then[0].prompt is empty",
        ),
        (
            [{"kind": "vector"}, UPSCALE],
            "PQ_INVALID_INPUT",
            "options.then[1]: the previous step makes a vector picture, which no model takes",
        ),
        (
            [{"kind": "vector", "model_id": "tencentarc/gfpgan"}],
            "PQ_INVALID_ARGUMENT",
            "options.then[0].kind is vector, and tencentarc/gfpgan does upscale",
        ),
    ],
)
async def test_an_invalid_step_is_named_in_the_error(db, then, code, detail):
    before = await db.value("select count(*) from generations")
    refused = await db.refusal(START, "a cat", {"then": then})
    assert refused.message.startswith(f"{code}: ")
    assert refused.detail == detail
    assert await db.value("select count(*) from generations") == before


async def test_an_error_of_the_first_generation_of_a_chain_names_no_step(db):
    refused = await db.refusal(START, "", {"then": [UPSCALE]})
    assert refused.detail == "prompt is empty"
    refused = await db.refusal(START, "x", {"then": [UPSCALE], "reuse": True})
    assert refused.detail.startswith("options.reuse is true")


async def test_an_empty_list_of_steps_starts_a_single_generation(db):
    for then in ([], None):
        started = await db.value(START, "a cat", {"then": then})
        assert set(started) == {"generation_id", "job_id", "status"}


async def test_a_step_with_a_list_of_pictures_gets_a_list(db):
    step = {"model_id": "google/nano-banana", "prompt": "a hat"}
    chain = await db.value(START, "a cat", {"then": [step]})
    second = await db.value("select get_generation($1)", UUID(chain["steps"][0]["generation_id"]))
    assert second["input"]["image_input"] == [f"generation:{chain['generation_id']}"]
    assert second["prompt"] == "a hat"
    assert (second["batch_id"], second["batch_position"], second["batch_step"]) == (
        chain["batch_id"], 0, 1,
    )  # fmt: skip


async def test_a_repeated_chain_returns_the_first_answer(db):
    for key in ({"generation_id": str(uuid4())}, {"idempotency_key": uuid4().hex}):
        options = {"then": [UPSCALE, REMOVE], **key}
        first = await db.value(START, "a cat", options)
        assert await db.value(START, "a cat", options) == first
        assert await db.value(START, "a dog", key) == first
        assert len(first["steps"]) == 2


@pytest.mark.parametrize("then", [[], [UPSCALE]])
async def test_a_repeated_key_with_a_new_id_returns_the_generation_of_the_key(db, then):
    await db.act_as("authenticated", uuid4())
    options = {"then": then, "idempotency_key": uuid4().hex}
    first = await db.value(START, "a cat", {**options, "generation_id": str(uuid4())})
    repeat = {**options, "generation_id": str(uuid4())}
    assert await db.value(START, "a cat", repeat) == first
    other = await db.value(START, "a dog", {"generation_id": repeat["generation_id"]})
    assert other["generation_id"] == repeat["generation_id"]
    assert (await db.value(START, "a cat", repeat))["generation_id"] == other["generation_id"]
    await db.value("select cancel_generation($1)", UUID(first["generation_id"]))
    await db.value("select delete_generation($1)", UUID(first["generation_id"]))
    refused = await db.refusal(START, "a cat", {**options, "generation_id": str(uuid4())})
    assert refused.message.startswith("PQ_CONFLICT: ")
    assert refused.detail == (
        f"options.idempotency_key is '{options['idempotency_key']}', of generation "
        f"{first['generation_id']}, which was deleted"
    )


@pytest.mark.parametrize("key", ["generation_id", "idempotency_key"])
@pytest.mark.parametrize("kind", ["chain", "dependent", "without a user"])
async def test_a_chain_repeated_during_the_first_call_is_started_once(own_database, key, kind):
    user = uuid4()
    options: dict[str, Any] = {key: str(uuid4()), "user_id": str(user), "then": [UPSCALE]}
    arguments: list[Any] = [START, "a cat", options]
    pair = [Database(await connect(own_database)) for _ in range(2)]
    first, second = pair
    try:
        if kind == "dependent":
            owner = {"user_id": str(user)}
            picture = (await first.value(START, "a cat", owner))["generation_id"]
            arguments = [
                "select start_generation('', 'philz1337x/clarity-upscaler', $1, $2)",
                {"image": f"generation:{picture}"},
                {**options, "then": []},
            ]
        elif kind == "without a user":
            del options["user_id"]
        before = await first.value("select count(*) from generations")
        held = first.connection.transaction()
        await held.start()
        started = await first.value(*arguments)
        repeat = asyncio.create_task(second.value(*arguments))
        await asyncio.sleep(0.3)
        assert not repeat.done()
        await held.commit()
        if kind == "without a user":
            with pytest.raises(asyncpg.PostgresError) as refused:
                await repeat
            assert refused.value.message.startswith("PQ_BUSY: ")
            assert (
                refused.value.detail == "another call starts the same generation at the same time"
            )
        else:
            assert await repeat == started
        assert await second.value(*arguments) == started
        count = len([started, *started.get("steps", [])])
        assert await first.value("select count(*) from generations") == before + count
    finally:
        for database in pair:
            await database.connection.close(timeout=10)


async def test_only_the_first_step_is_scheduled(db):
    await use_own_queue(db)
    options = {"then": [UPSCALE], "scheduled_for": "2100-01-01T00:00:00Z", "priority": 3}
    chain = await db.value(START, "a cat", options)
    first = await db.job(chain["job_id"])
    second = await db.job(chain["steps"][0]["job_id"])
    assert (first["hold"], second["hold"]) == ("scheduled", "waiting")
    assert second["scheduled_for"] is None
    assert (first["priority"], second["priority"]) == (3, 3)


async def test_a_rule_over_inputs_applies_to_each_step(db):
    await db.value("select set_input_rule('nightmareai/*', 'scale', 'lock', '2')")
    step = {"model_id": "nightmareai/real-esrgan", "input": {"scale": 3}}
    refused = await db.refusal(START, "a cat", {"then": [step]})
    assert refused.detail.startswith("options.then[0].input.scale is 3 and is not permitted")


async def test_cancelling_a_batch_cancels_each_generation(db):
    await use_own_queue(db)
    requests = [{"prompt": f"cat {n}", "then": [UPSCALE]} for n in range(3)]
    started = await db.value(START_MANY, requests, {})
    done, running = await claim(db, 2)
    await complete(db, done)
    counts = await db.value("select cancel_generation_batch($1)", UUID(started["batch_id"]))
    assert counts == {
        "batch_id": started["batch_id"],
        "total": 6,
        "completed": 1,
        "failed": 0,
        "cancelled": 4,
        "cancel_requested": 1,
    }
    again = await db.value("select cancel_generation_batch($1)", UUID(started["batch_id"]))
    assert again == counts
    await db.report(running, "cancelled")
    await db.maintain()
    whole = await batch(db, started["batch_id"])
    assert (whole["status"], whole["cancelled"], whole["progress"]) == ("cancelled", 5, 100)
    assert await claim(db) == []
    jobs = await db.value("select get_batch($1)", UUID(started["batch_id"]))
    assert (jobs["open"], jobs["cancelled"]) == (0, 5)


async def test_a_batch_answers_in_the_order_of_its_requests(db):
    requests = [
        {"prompt": "one", "input": {"seed": 1}},
        {"prompt": "two", "then": [UPSCALE, REMOVE]},
        {"prompt": "", "model_id": "tencentarc/gfpgan", "input": {"img": "https://x/y.png"}},
        {"prompt": "four", "kind": "text-to-image", "model_id": MODEL_EDIT, "then": None},
    ]
    started = await db.value(START_MANY, requests, {})
    prompts = []
    for entry in started["generations"]:
        generation = await db.value("select get_generation($1)", UUID(entry["generation_id"]))
        prompts.append(generation["prompt"])
    assert prompts == ["one", "two", "", "four"]
    assert [len(entry.get("steps", ())) for entry in started["generations"]] == [0, 2, 0, 0]
    listed = await db.value("select list_generations('{\"limit\": 6}')")
    assert [row["batch_position"] for row in listed] == [3, 2, 1, 1, 1, 0]


async def test_a_repeated_batch_returns_the_first_answer(db):
    options = {"batch_id": str(uuid4())}
    first = await db.value(START_MANY, [{"prompt": "one"}, {"prompt": "two"}], options)
    assert first["batch_id"] == options["batch_id"]
    assert await db.value(START_MANY, [{"prompt": "other"}], options) == first
    await db.run("delete from picture_queue.batch where id = $1", UUID(options["batch_id"]))
    assert await db.value(START_MANY, [{"prompt": "other"}], options) == first


async def test_a_repeated_batch_whose_first_generations_were_removed_has_an_empty_list(db):
    options = {"batch_id": str(uuid4())}
    requests = [{"prompt": "one", "then": [UPSCALE]}]
    await db.value(START_MANY, requests, options)
    first = "delete from generations where batch_id = $1 and batch_step = 0"
    await db.run(first, UUID(options["batch_id"]))
    assert await db.value(START_MANY, requests, options) == {**options, "generations": []}


async def test_a_batch_id_of_another_owner_or_of_other_jobs_is_refused(db):
    options = {"batch_id": str(uuid4())}
    await db.act_as("authenticated", uuid4())
    await db.value(START_MANY, [{"prompt": "one"}], options)
    await db.run("reset role")
    await db.act_as("authenticated", uuid4())
    refused = await db.refusal(START_MANY, [{"prompt": "one"}], options)
    assert refused.message.startswith("PQ_CONFLICT: ")
    await db.run("reset role")
    await db.act_as("service_role")
    jobs = await db.value('select enqueue_batch(\'[{"job_type": "sql-resize"}]\')')
    options = {"batch_id": jobs["batch_id"]}
    refused = await db.refusal(START_MANY, [{"prompt": "one"}], options)
    assert refused.detail == f"options.batch_id is {jobs['batch_id']}"
    refused = await db.refusal("select generation_batch($1)", UUID(jobs["batch_id"]))
    assert refused.message.startswith("PQ_UNKNOWN_BATCH: ")


@pytest.mark.parametrize(
    ("requests", "detail"),
    [
        ({}, "requests is not a list"),
        (None, "requests is not a list"),
        ([], "requests has 0 entries, 1 to 100 are possible"),
        ([{"prompt": "x"}] * 101, "requests has 101 entries, 1 to 100 are possible"),
        ([{"prompt": "x"}, 7], "requests[1] is not an object"),
        ([{"prompt": 7}], "requests[0].prompt is 7, not text"),
        ([{"prompt": "x"}, {"prompt": " "}], "requests[1].prompt is empty"),
        ([{"prompt": "x", "seed": 7}], "requests[0].seed is not known"),
        ([{"prompt": "x", "input": []}], "requests[0].input is of type array, not an object"),
        ([{"prompt": "x", "input": {"nope": 1}}],
         f"requests[0].input.nope is 1 and is not an input of {MODEL}"),
        ([{"prompt": "x", "kind": "upscale"}],
         f"requests[0].kind is upscale, and {MODEL} does text-to-image"),
        ([{"prompt": "x", "then": [{}]}], "requests[0].then[0] has neither model_id nor kind"),
        ([{"prompt": "x", "then": [{"kind": "upscale", "prompt": "x", "input": {"x": 1}}]}],
         "requests[0].then[0].input.x is 1 and is not an input of philz1337x/clarity-upscaler"),
        ([{"model_id": "tencentarc/gfpgan"}], "requests[0].input.img is missing"),
        ([{"prompt": "x", "model_id": "no/thing"}], "requests[0].model_id is 'no/thing'"),
    ],
)  # fmt: skip
async def test_an_invalid_request_is_named_in_the_error(db, requests, detail):
    before = await db.value("select count(*) from generations")
    refused = await db.refusal(START_MANY, requests, {})
    assert refused.message.startswith(("PQ_INVALID_", "PQ_UNKNOWN_MODEL"))
    assert refused.detail == detail
    assert await db.value("select count(*) from generations") == before


@pytest.mark.parametrize("option", ["kind", "reuse", "idempotency_key", "generation_id", "then"])
async def test_options_of_one_generation_are_refused_for_a_batch(db, option):
    refused = await db.refusal(START_MANY, [{"prompt": "x"}], {option: "x"})
    assert refused.detail == f"options.{option} is not known"


async def test_limits_count_all_generations_of_a_batch(db):
    for budget, code in (
        ({"max_pending": 5}, "PQ_RATE_LIMITED"),
        ({"per_minute": 5}, "PQ_RATE_LIMITED"),
        ({"usd_per_day": 0.015}, "PQ_OVER_BUDGET"),
    ):
        user = uuid4()
        await db.value("select set_budget($1, $2)", f"user:{user}", budget)
        options = {"user_id": str(user)}
        refused = await db.refusal(START_MANY, [{"prompt": "x"}] * 6, options)
        assert refused.sqlstate == "PT429"
        assert refused.message.startswith(f"{code}: ")
        assert refused.detail.startswith("requests[5]: ")
        assert await db.value("select count(*) from generations where user_id = $1", user) == 0
        started = await db.value(START_MANY, [{"prompt": "x"}] * 5, options)
        assert len(started["generations"]) == 5


@pytest.mark.parametrize("budget", [{"max_pending": 3}, {"per_minute": 3}, {"per_hour": 3}])
async def test_a_batch_that_exceeds_a_rate_is_refused_before_other_checks(db, budget):
    user = uuid4()
    await db.value("select set_budget($1, $2)", f"user:{user}", budget)
    options = {"user_id": str(user)}
    await db.value(START, "a cat", options)
    ((field, rate),) = budget.items()
    requests = [{"prompt": " ", "then": [UPSCALE, UPSCALE]}]
    refused = await db.refusal(START_MANY, requests, options)
    assert refused.message.startswith("PQ_RATE_LIMITED: ")
    assert refused.detail.startswith(f"requests[0].then[1]: {field} is {rate}, and ")
    assert ("retry_after" in refused.detail) == (field != "max_pending")
    refused = await db.refusal(START, " ", {"then": [UPSCALE] * 5, **options})
    assert refused.detail.startswith(f"options.then[1]: {field} is {rate}, and ")
    await db.value(START_MANY, [{"prompt": "x"}, {"prompt": "y"}], options)


async def forget_spending(db):
    """Delete, inside the transaction of the test, the spending that other test files have left."""
    await db.run("delete from picture_queue.ledger")
    await db.run("delete from picture_queue.account where key = 'project'")


async def test_a_refusal_by_the_budget_of_the_project_names_the_request(db):
    await forget_spending(db)
    await db.value("select set_budget('project', '{\"usd_per_day\": 0.008}')")
    refused = await db.refusal(START_MANY, [{"prompt": "x"}] * 3, {})
    assert refused.message.startswith("PQ_OVER_BUDGET: ")
    assert refused.detail.startswith("requests[2]: usd_per_day is 0.008, of which 0.006 is spent, ")
    await db.value(START_MANY, [{"prompt": "x"}] * 2, {})
    account = "select day_usd from picture_queue.account where key = 'project'"
    assert float(await db.value(account)) == 0.006


async def test_the_account_of_the_project_is_locked_after_the_jobs_are_written(db):
    await forget_spending(db)
    await db.value("select set_budget('project', '{\"usd_per_day\": 9}')")
    await db.run("""
      create function pg_temp.refuse_late_jobs() returns trigger language plpgsql as $$
      begin
        if (select xmax from picture_queue.account where key = 'project')::text
          = pg_current_xact_id_if_assigned()::xid::text
          or (select day_usd from picture_queue.account where key = 'project') > 0
        then
          raise exception 'the account was changed before the job was written';
        end if;
        return new;
      end $$""")
    await db.run(
        "create trigger refuse_late_jobs before insert on job_queue "
        "for each row execute function pg_temp.refuse_late_jobs()"
    )
    await db.value(START_MANY, [{"prompt": "x", "then": [UPSCALE]}] * 2, {})
    account = "select day_usd from picture_queue.account where key = 'project'"
    assert float(await db.value(account)) > 0


async def test_a_hundred_chains_are_started_at_once(db):
    await use_own_queue(db)
    user = uuid4()
    rates = {"per_minute": 200, "per_hour": 200, "max_pending": 200}
    await db.value("select set_budget($1, $2)", f"user:{user}", rates)
    await db.act_as("authenticated", user)
    started = await db.value(START_MANY, [{"prompt": "x", "then": [UPSCALE]}] * 100, {})
    whole = await batch(db, started["batch_id"])
    assert (whole["total"], len(whole["generations"])) == (200, 200)
    counts = await db.value("select cancel_generation_batch($1)", UUID(started["batch_id"]))
    assert counts["cancelled"] == 200
    await db.run("reset role")
    await db.act_as("service_role")
    account = await db.value("select get_account($1)", user)
    assert (account["pending"], float(account["spent_today_usd"])) == (0, 0)


async def test_only_the_owner_and_a_service_key_see_and_cancel_a_batch(db):
    owner = uuid4()
    await db.act_as("authenticated", owner)
    started = await db.value(START_MANY, [{"prompt": "x"}], {})
    batch_id = UUID(started["batch_id"])
    assert (await batch(db, started["batch_id"]))["total"] == 1
    await db.run("reset role")
    await db.act_as("authenticated", uuid4())
    for call in ("generation_batch", "cancel_generation_batch"):
        refused = await db.refusal(f"select {call}($1)", batch_id)
        assert refused.message.startswith("PQ_UNKNOWN_BATCH: ")
        assert refused.detail == f"batch_id is {batch_id}"
    await db.run("reset role")
    await db.act_as("service_role")
    assert (await batch(db, started["batch_id"]))["total"] == 1
    assert (await db.value("select cancel_generation_batch($1)", batch_id))["cancelled"] == 1


@pytest.mark.parametrize("options", [{"user_id": str(UUID(int=1))}, {"priority": 1}])
async def test_a_user_sets_neither_owner_nor_priority_of_a_batch(db, options):
    await db.act_as("authenticated", uuid4())
    refused = await db.refusal(START_MANY, [{"prompt": "x"}], options)
    assert refused.message.startswith("PQ_NOT_ALLOWED: ")


async def test_a_generation_waits_for_the_pictures_that_it_uses(db):
    await use_own_queue(db)
    first = await db.value(START, "a cat", {})
    picture = f"generation:{first['generation_id']}/2"
    call = "select start_generation(null, 'tencentarc/gfpgan', $1)"
    second = await db.value(call, {"img": picture})
    assert set(second) == {"generation_id", "job_id", "status"}
    assert (await db.job(second["job_id"]))["hold"] == "waiting"
    (job,) = await claim(db)
    await complete(db, job, images=2)
    (job,) = await claim(db)
    assert job["id"] == second["job_id"]
    begun = await db.value(
        "select begin_prediction($1, $2)", UUID(job["id"]), UUID(job["lease_id"])
    )
    assert begun["files"] == {picture: f"pictures/shared/{first['job_id']}/2.png"}
    third = await db.value(call, {"img": picture})
    assert (await db.job(third["job_id"]))["hold"] is None


async def test_a_missing_or_deleted_picture_has_no_path(db):
    await use_own_queue(db)
    first = await db.value(START, "a cat", {})
    (job,) = await claim(db)
    await complete(db, job)
    paths = "select picture_queue._referenced_paths($1)"
    # The generation has one picture, so the second picture does not exist.
    picture, missing = (f"generation:{first['generation_id']}{n}" for n in ("", "/2"))
    found = await db.value(paths, {"a": [picture, missing], "b": "generation:x", "c": 7})
    assert list(found) == [picture]
    await db.value("select delete_generation($1)", UUID(first["generation_id"]))
    assert await db.value(paths, {"a": picture}) == {}


async def test_a_picture_of_another_user_is_refused(db):
    await db.act_as("authenticated", uuid4())
    first = await db.value(START, "a cat", {})
    await db.run("reset role")
    await db.act_as("authenticated", uuid4())
    call = "select start_generation($1, $2, $3)"
    picture = f"generation:{first['generation_id']}"
    for reference in (picture, picture.upper().replace("GENERATION", "generation"), picture + "/3"):
        for model, name, value in (
            ("tencentarc/gfpgan", "img", reference),
            ("google/nano-banana", "image_input", ["https://x/y.png", reference]),
        ):
            prompt = "x" if "nano" in model else None
            refused = await db.refusal(call, prompt, model, {name: value})
            assert refused.message.startswith("PQ_INVALID_INPUT: ")
            assert refused.detail == (
                f"input.{name} is {reference}, and the user has no such generation"
            )
    request = {"prompt": None, "model_id": "tencentarc/gfpgan", "input": {"img": picture}}
    refused = await db.refusal(START_MANY, [request], {})
    assert refused.detail.startswith("requests[0].input.img is generation:")
    unknown = f"generation:{uuid4()}"
    refused = await db.refusal(call, None, "tencentarc/gfpgan", {"img": unknown})
    assert refused.detail.endswith("and the user has no such generation")
    await db.run("reset role")
    await db.act_as("service_role")
    assert await db.value(call, None, "tencentarc/gfpgan", {"img": picture})
    refused = await db.refusal(call, None, "tencentarc/gfpgan", {"img": unknown})
    assert refused.detail.endswith("there is no such generation")


@pytest.mark.parametrize(
    "reference",
    ["generation:", "generation:x", "generation:{}/0", "generation:{}/1/2", "generation:{}/12345",
     " generation:{}", "generation:{}\n"],
)  # fmt: skip
async def test_a_malformed_reference_is_refused(db, reference):
    call = "select start_generation(null, 'tencentarc/gfpgan', $1)"
    refused = await db.refusal(call, {"img": reference.format(uuid4())})
    assert "nor generation:<id>/<n>" in refused.detail


async def test_a_generation_whose_picture_failed_is_cancelled(db):
    await use_own_queue(db)
    first = await db.value(START, "a cat", {})
    picture = {"img": f"generation:{first['generation_id']}"}
    second = await db.value("select start_generation(null, 'tencentarc/gfpgan', $1)", picture)
    (job,) = await claim(db)
    await db.report(job, "failed", error="no", retryable=False)
    row = await db.value("select get_generation($1)", UUID(second["generation_id"]))
    assert (row["status"], row["cost_usd"]) == ("cancelled", 0)


async def test_the_default_model_of_a_kind_is_the_cheapest_that_takes_a_picture(db):
    model = "select picture_queue._default_model($1, $2)"
    assert await db.value(model, "upscale", False) == "nightmareai/real-esrgan"
    assert await db.value(model, "upscale", True) == "philz1337x/clarity-upscaler"
    assert await db.value(model, "background-removal", False) == "851-labs/background-remover"
    assert await db.value(model, "vector", False) == "recraft-ai/recraft-vectorize"
    await db.value("select set_model('nightmareai/real-esrgan', '{\"enabled\": false}')")
    assert await db.value(model, "upscale", False) != "nightmareai/real-esrgan"
