"""Generations in SQL: start_generation, and the functions that a worker calls."""

import json
from uuid import UUID, uuid4

import pytest

MODEL = "black-forest-labs/flux-schnell"
START = "select start_generation($1, $2, $3, $4)"


async def start_and_claim_generation(db, user_id=None):
    """Start a generation in a separate queue and claim its job."""
    await db.value(
        "select register_worker('w1', array[$1], $2)",
        db.queue,
        {"generate-image": {"queue": db.queue}},
    )
    options = {"user_id": str(user_id)} if user_id else {}
    started = await db.value(START, "a cat", MODEL, {"seed": 7}, options)
    (job,) = await db.claim(1, "generate-image")
    assert job["generation_id"] == started["generation_id"]
    return started, job


async def test_a_generation_and_its_job_are_inserted_together(db):
    started = await db.value(START, "a cat", MODEL, {"num_outputs": 2}, {})
    generation = await db.value("select get_generation($1)", UUID(started["generation_id"]))
    job = await db.job(started["job_id"])
    assert (generation["prompt"], generation["input"]) == ("a cat", {"num_outputs": 2})
    assert (generation["status"], generation["job_id"]) == ("pending", started["job_id"])
    assert job["job_type"] == "generate-image"
    assert job["payload"] == {"generation_id": started["generation_id"]}


async def test_the_default_model_is_used_if_none_is_given(db):
    started = await db.value("select start_generation('a cat')")
    generation = await db.value("select get_generation($1)", UUID(started["generation_id"]))
    assert generation["model_id"] == MODEL


async def test_a_generation_has_the_status_of_its_job(db):
    started, job = await start_and_claim_generation(db)
    status = "select status from generations where id = $1"
    assert await db.value(status, UUID(started["generation_id"])) == "processing"
    await db.report(job, "completed")
    row = await db.value("select get_generation($1)", UUID(started["generation_id"]))
    assert row["status"] == "completed"
    assert row["finished_at"]


async def test_a_repeated_start_returns_the_first_answer(db):
    by_id = {"generation_id": str(uuid4())}
    assert await db.value(START, "a cat", MODEL, {}, by_id) == await db.value(
        START, "a cat", MODEL, {}, by_id
    )
    by_key = {"idempotency_key": uuid4().hex}
    assert await db.value(START, "a cat", MODEL, {}, by_key) == await db.value(
        START, "a cat", MODEL, {}, by_key
    )


async def test_a_repeated_start_succeeds_after_the_job_was_pruned(db):
    options = {"generation_id": str(uuid4())}
    call = "select start_generation('a cat', options => $1)"
    first = await db.value(call, options)
    await db.run("delete from job_queue where id = $1", UUID(first["job_id"]))
    assert await db.value(call, options) == first


async def test_a_generation_id_of_another_user_is_refused(db):
    options = {"generation_id": str(uuid4())}
    await db.act_as("authenticated", uuid4())
    await db.value(START, "a cat", MODEL, {}, options)
    await db.run("reset role")
    await db.act_as("authenticated", uuid4())
    refused = await db.refusal(START, "a cat", MODEL, {}, options)
    assert refused.message.startswith("PQ_CONFLICT: ")


@pytest.mark.parametrize(
    ("model_input", "detail"),
    [
        ({"num_outputs": 5}, "input.num_outputs is 5 and is above 4"),
        ({"num_outputs": 0}, "input.num_outputs is 0 and is below 1"),
        ({"num_outputs": 1.5}, "input.num_outputs is 1.5 and is not a whole number"),
        ({"num_outputs": "2"}, 'input.num_outputs is "2" and is not a whole number'),
        ({"go_fast": "yes"}, 'input.go_fast is "yes" and is not of type boolean'),
        ({"output_format": "bmp"}, 'input.output_format is "bmp" and is not one of webp, jpg, png'),
        ({"nope": 1}, "input.nope is 1 and is not an input of " + MODEL),
        ({"seed": None}, "input.seed is null and is not a whole number"),
        ({"prompt": "x"}, "input.prompt is not permitted, prompt is a separate argument"),
        ([], "input is not an object"),
    ],
)
async def test_an_input_outside_the_range_of_the_model_is_refused(db, model_input, detail):
    before = await db.value("select count(*) from generations")
    refused = await db.refusal(START, "a cat", MODEL, model_input, {})
    assert (refused.sqlstate, refused.detail) == ("PT422", detail)
    assert refused.message == "PQ_INVALID_INPUT: the input does not fit the model"
    assert await db.value("select count(*) from generations") == before


@pytest.mark.parametrize("prompt", ["", "  \n", None, "x" * 4001])
async def test_a_prompt_is_required_and_limited_in_length(db, prompt):
    refused = await db.refusal(START, prompt, MODEL, {}, {})
    assert refused.message.startswith("PQ_INVALID_INPUT: ")
    assert refused.detail.startswith("prompt ")


async def test_a_model_without_a_prompt_requires_its_input_image(db):
    refused = await db.refusal(START, "a cat", "tencentarc/gfpgan", {}, {})
    assert refused.detail == "tencentarc/gfpgan takes no prompt"
    refused = await db.refusal(START, None, "tencentarc/gfpgan", {}, {})
    assert refused.detail == "input.img is missing"
    for address in ("http://example.com/a.png", "file:///etc/passwd", "https://a b"):
        refused = await db.refusal(START, None, "tencentarc/gfpgan", {"img": address}, {})
        assert "https://" in refused.detail
    picture = {"img": "https://example.com/a.png"}
    assert (await db.value(START, None, "tencentarc/gfpgan", picture, {}))["status"] == "pending"


async def test_each_entry_of_a_list_of_images_is_validated(db):
    model = "black-forest-labs/flux-2-pro"
    bad = {"input_images": ["https://example.com/a.png", "ftp://example.com/b.png"]}
    refused = await db.refusal(START, "a cat", model, bad, {})
    assert "is neither an https:// address nor storage:" in refused.detail


async def test_an_unknown_model_is_refused(db):
    refused = await db.refusal(START, "a cat", "nobody/nothing", {}, {})
    assert (refused.sqlstate, refused.detail) == ("PT404", "model_id is 'nobody/nothing'")


async def test_every_model_of_the_catalogue_accepts_its_own_defaults(db):
    for model in await db.value("select list_models()"):
        rules = {rule["name"]: rule for rule in model["inputs"]}
        model_input = {
            name: rule["default"]
            for name, rule in rules.items()
            if "default" in rule and name != "prompt" and rule.get("format") != "uri"
        }
        for name, rule in rules.items():
            if rule["required"] and name not in ("prompt", *model_input):
                model_input[name] = "https://example.com/a.png"
        prompt = "a cat" if "prompt" in rules else None
        assert (await db.value(START, prompt, model["model_id"], model_input, {}))[
            "status"
        ] == "pending"


async def test_a_user_may_not_choose_owner_or_priority(db):
    await db.act_as("authenticated", uuid4())
    for options in ({"user_id": str(uuid4())}, {"priority": 9}):
        refused = await db.refusal(START, "a cat", MODEL, {}, options)
        assert (refused.sqlstate, refused.message.split(":")[0]) == ("PT403", "PQ_NOT_ALLOWED")
    refused = await db.refusal(START, "a cat", MODEL, {}, {"nope": 1})
    assert refused.detail == "options.nope is not known"


async def test_a_token_without_a_user_cannot_start_a_generation(db):
    await db.act_as("authenticated")
    refused = await db.refusal(START, "a cat", MODEL, {}, {})
    assert (refused.sqlstate, refused.message.split(":")[0]) == ("PT401", "PQ_NOT_AUTHENTICATED")


async def test_a_token_whose_sub_is_not_a_uuid_starts_no_generation(db):
    await db.act_as("authenticated")
    await db.value(
        "select set_config('request.jwt.claims', $1, true)",
        json.dumps({"role": "authenticated", "sub": "user|12345"}),
    )
    refused = await db.refusal("select start_generation('x')")
    assert refused.message.startswith("PQ_NOT_AUTHENTICATED")


async def test_an_unfinished_prediction_is_returned_again(db):
    _, job = await start_and_claim_generation(db)
    ids = (UUID(job["id"]), UUID(job["lease_id"]))
    begun = await db.value("select begin_prediction($1, $2)", *ids)
    assert (begun["resumed"], begun["prediction"]["state"]) == (False, "creating")
    assert begun["prediction"]["input"] == {"prompt": "a cat", "seed": 7}
    prediction = UUID(begun["prediction"]["id"])
    again = await db.value("select begin_prediction($1, $2)", *ids)
    assert (again["resumed"], again["prediction"]["id"]) == (True, str(prediction))

    await db.run("select record_prediction($1, $2, $3, 'p1')", *ids, prediction)
    await db.run("select record_prediction($1, $2, $3, 'p1')", *ids, prediction)
    refused = await db.refusal("select record_prediction($1, $2, $3, 'p2')", *ids, prediction)
    assert refused.message.startswith("PQ_CONFLICT: ")
    # Each poll of a parked job makes this call. Only the search for a lost prediction needs the ids
    # of other predictions.
    recorded = await db.value("select begin_prediction($1, $2)", *ids)
    assert (recorded["prediction"]["prediction_id"], recorded["owned"]) == ("p1", [])

    await db.run("select finish_prediction($1, $2, $3, 'failed', 'boom')", *ids, prediction)
    # Nor does a new row: with thousands of generations in flight, each would read the ids of all.
    new = await db.value("select begin_prediction($1, $2)", *ids)
    assert not new["resumed"]
    assert new["owned"] == new["rows_without_id"] == new["equal_rows_without_id"] == []
    again = await db.value("select begin_prediction($1, $2)", *ids)
    assert again["resumed"]
    assert "p1" in again["owned"]


async def test_the_rows_that_may_own_a_lost_prediction_are_returned(db):
    jobs = [(await start_and_claim_generation(db))[1] for _ in range(4)]
    ids = [(UUID(job["id"]), UUID(job["lease_id"])) for job in jobs]
    begun = [await db.value("select begin_prediction($1, $2)", *arguments) for arguments in ids]
    # The first row searches. The second has an equal input, the third another input, and the
    # fourth is lost.
    searching, equal, other, lost = (answer["prediction"]["id"] for answer in begun)
    await db.run("update picture_queue.prediction set input = '{}' where id = $1", UUID(other))
    await db.run("select finish_prediction($1, $2, $3, 'lost')", *ids[3], UUID(lost))

    answer = await db.value("select begin_prediction($1, $2, $3)", *ids[0], UUID(searching))
    assert answer["prediction"]["id"] == searching
    assert equal in answer["equal_rows_without_id"]
    assert {equal, other, lost} <= set(answer["rows_without_id"])
    assert not {searching, other, lost} & set(answer["equal_rows_without_id"])

    await db.run("select record_prediction($1, $2, $3, 'of the equal row')", *ids[1], UUID(equal))
    answer = await db.value("select begin_prediction($1, $2, $3)", *ids[0], UUID(searching))
    assert equal not in answer["rows_without_id"]
    assert "of the equal row" in answer["owned"]

    await db.run("select finish_prediction($1, $2, $3, 'lost')", *ids[0], UUID(searching))
    answer = await db.value("select begin_prediction($1, $2, $3)", *ids[0], UUID(searching))
    assert (answer["prediction"]["state"], "of the equal row" in answer["owned"]) == ("lost", True)
    rows = "select count(*) from picture_queue.prediction where generation_id = $1"
    assert await db.value(rows, UUID(answer["generation"]["id"])) == 1
    refused = await db.refusal("select begin_prediction($1, $2, $3)", *ids[0], UUID(equal))
    assert refused.message.startswith("PQ_CONFLICT: ")


async def test_a_prediction_id_is_unique(db):
    _, first = await start_and_claim_generation(db)
    _, second = await start_and_claim_generation(db)
    for job, expected in ((first, None), (second, "PQ_CONFLICT")):
        ids = (UUID(job["id"]), UUID(job["lease_id"]))
        prediction = UUID(
            (await db.value("select begin_prediction($1, $2)", *ids))["prediction"]["id"]
        )
        if expected is None:
            await db.run("select record_prediction($1, $2, $3, 'same')", *ids, prediction)
        else:
            refused = await db.refusal(
                "select record_prediction($1, $2, $3, 'same')", *ids, prediction
            )
            assert refused.message.startswith(expected)


async def offer_model(db, provider):
    """Insert a model of this provider."""
    await db.run(
        "insert into picture_queue.model (model_id, provider, kind, inputs)"
        " values ($1, $2, 'text-to-image', '[{\"name\": \"prompt\"}]')",
        f"{provider}/model",
        provider,
    )
    return f"{provider}/model"


async def test_the_job_of_a_generation_names_its_provider(db):
    model = await offer_model(db, "my-gpu")
    own = await db.job((await db.value(START, "a cat", model, {}, {}))["job_id"])
    assert (own["job_type"], own["limit_keys"]) == (
        "generate-image:my-gpu",
        ["provider:my-gpu", "model:my-gpu/model"],
    )
    other = await db.job((await db.value(START, "a cat", MODEL, {}, {}))["job_id"])
    assert other["job_type"] == "generate-image"
    assert other["limit_keys"] == ["provider:replicate", f"model:{MODEL}"]
    key = {"idempotency_key": uuid4().hex}
    first = await db.value(START, "a cat", model, {}, key)
    repeated = await db.value(START, "a cat", MODEL, {}, key)
    assert repeated == first, "the key applies to all providers"


async def test_a_pause_of_a_provider_stops_only_its_jobs(db):
    model = await offer_model(db, "pausable")
    types = ["generate-image", "generate-image:pausable"]
    policies = {job_type: {"queue": db.queue} for job_type in types}
    await db.value("select register_worker('w1', array[$1], $2)", db.queue, policies)
    await db.value("select pause_key('provider:pausable')")
    await db.value(START, "a cat", model, {}, {})
    other = await db.value(START, "a cat", MODEL, {}, {})
    claimed = [job["id"] for job_type in types for job in await db.claim(5, job_type)]
    assert claimed == [other["job_id"]]
    await db.value("select resume_key('provider:pausable')")


async def test_predictions_of_two_providers_may_have_the_same_id(db):
    model = await offer_model(db, "own")
    types = {name: {"queue": db.queue} for name in ("generate-image", "generate-image:own")}
    await db.value("select register_worker('w1', array[$1], $2)", db.queue, types)
    answers = {}
    for job_type, model_id in (("generate-image", MODEL), ("generate-image:own", model)):
        await db.value(START, "a cat", model_id, {}, {})
        (job,) = await db.claim(1, job_type)
        ids = (UUID(job["id"]), UUID(job["lease_id"]))
        begun = await db.value("select begin_prediction($1, $2)", *ids)
        prediction = UUID(begun["prediction"]["id"])
        await db.run("select record_prediction($1, $2, $3, 'equal')", *ids, prediction)
        await db.run("select finish_prediction($1, $2, $3, 'failed')", *ids, prediction)
        await db.value("select begin_prediction($1, $2)", *ids)
        answers[job_type] = await db.value("select begin_prediction($1, $2)", *ids)
    assert answers["generate-image"]["prediction"]["provider"] == "replicate"
    assert answers["generate-image:own"]["prediction"]["provider"] == "own"
    assert answers["generate-image:own"]["owned"] == ["equal"]


async def test_list_models_shows_the_capabilities_that_a_worker_registered(db):
    model = await offer_model(db, "described")
    registered = {"webhook": False, "cancel": True, "progress": True, "recover": "none"}
    register = "select register_worker('w1', array[$1], $2)"
    capabilities = (
        "select m -> 'capabilities' from jsonb_array_elements(list_models()) m"
        " where m ->> 'model_id' = $1"
    )
    assert await db.value(capabilities, model) is None
    await db.value(register, db.queue, {"generate-image:described": {"capabilities": registered}})
    assert await db.value(capabilities, model) == registered
    for wrong, problem in (
        ({"recover": "perhaps"}, "capabilities.recover"),
        ({"cancel": "yes"}, "capabilities.cancel"),
        ({"nope": True}, "capabilities.nope"),
        (5, "capabilities"),
    ):
        refused = await db.refusal(register, db.queue, {"x": {"capabilities": wrong}})
        assert refused.message.startswith("PQ_INVALID_ARGUMENT")
        assert problem in refused.detail


@pytest.mark.parametrize("name", ["", "My GPU", "a:b", "x" * 33, "a*"])
async def test_the_name_of_a_provider_is_plain(db, name):
    refused = await db.refusal(
        "insert into picture_queue.model (model_id, provider, kind, inputs)"
        " values ('x', $1, 'text-to-image', '[]')",
        name,
    )
    assert "provider_name_is_plain" in refused.message


async def test_a_succeeded_prediction_is_returned_with_its_images(db):
    started, job = await start_and_claim_generation(db)
    ids = (UUID(job["id"]), UUID(job["lease_id"]))
    prediction = UUID((await db.value("select begin_prediction($1, $2)", *ids))["prediction"]["id"])
    await db.run("select record_prediction($1, $2, $3, 'p9')", *ids, prediction)
    image = {"n": 1, "path": "shared/x/1.png", "mime_type": "image/png", "width": 8, "height": 8}
    for size in (10, 11):
        await db.run("select save_images($1, $2, $3)", *ids, [{**image, "bytes": size}])
    await db.run("select finish_prediction($1, $2, $3, 'succeeded')", *ids, prediction)
    again = await db.value("select begin_prediction($1, $2)", *ids)
    assert (again["resumed"], again["prediction"]["state"]) == (True, "succeeded")
    assert [(i["n"], i["bytes"]) for i in again["images"]] == [(1, 11)]
    generation = await db.value("select get_generation($1)", UUID(started["generation_id"]))
    assert [i["path"] for i in generation["images"]] == ["shared/x/1.png"]


@pytest.mark.parametrize(
    "call",
    [
        "begin_prediction($1, $2)",
        "record_prediction($1, $2, gen_random_uuid(), 'p')",
        "finish_prediction($1, $2, gen_random_uuid(), 'failed')",
        "save_images($1, $2, '[]')",
    ],
)
async def test_functions_of_the_worker_require_a_valid_lease(db, call):
    _, job = await start_and_claim_generation(db)
    refused = await db.refusal(f"select {call}", UUID(job["id"]), uuid4())
    assert refused.message.startswith("PQ_STALE_LEASE: ")


HASH = "0123456789abcdef" * 4
IMAGE = {"n": 1, "path": "shared/x/1.png", "mime_type": "image/png"}
COMPLETE = {
    **IMAGE,
    "width": 8,
    "height": 8,
    "bytes": 70,
    "sha256": HASH,
    "blurhash": "L1Eyb[~qj[~q~qofayofWBWBofj[",
    "thumbnail_path": "shared/x/1.thumbnail.webp",
}


async def test_images_have_a_checksum_a_blurhash_and_a_thumbnail(db):
    started, job = await start_and_claim_generation(db)
    ids = (UUID(job["id"]), UUID(job["lease_id"]))
    await db.run("select save_images($1, $2, $3)", *ids, [COMPLETE])
    generation = await db.value("select get_generation($1)", UUID(started["generation_id"]))
    (image,) = generation["images"]
    assert COMPLETE.items() <= image.items()
    await db.run("select save_images($1, $2, $3)", *ids, [IMAGE])
    generation = await db.value("select get_generation($1)", UUID(started["generation_id"]))
    assert (generation["images"][0]["thumbnail_path"], generation["missing_images"]) == (None, [])


async def test_missing_images_are_kept_until_another_list_is_saved(db):
    started, job = await start_and_claim_generation(db)
    ids = (UUID(job["id"]), UUID(job["lease_id"]))
    missing = [{"n": 2, "reason": "The output is not a picture."}]
    for saved, expected in ((missing, missing), (None, missing), ([], [])):
        await db.run("select save_images($1, $2, '[]', $3)", *ids, saved)
        generation = await db.value("select get_generation($1)", UUID(started["generation_id"]))
        assert generation["missing_images"] == expected
        begun = await db.value("select begin_prediction($1, $2)", *ids)
        assert begun["generation"]["missing_images"] == expected


@pytest.mark.parametrize(
    ("images", "missing", "problem"),
    [
        ([{**IMAGE, "sha256": "abc"}], None, "images[0].sha256 has 3 characters, not 64 to 64"),
        ([{**IMAGE, "blurhash": "x" * 201}], None, "images[0].blurhash has 201 characters"),
        ([IMAGE, {**IMAGE, "n": 0}], None, "images[1].n is 0, not 1"),
        ([{**IMAGE, "thumbnail_path": "y/1.webp"}], None, "images[0].thumbnail_path is not in"),
        ([{**IMAGE, "thumbnail": "y"}], None, "images[0].thumbnail is not known"),
        ([{"n": 1, "path": "a"}], None, "images[0] lacks n, path or mime_type"),
        ({}, None, "images is not a list"),
        ([], {}, "missing is not a list"),
        ([], [{"n": 2}], "missing[0] lacks n or reason"),
        ([], [{"n": 2, "reason": "a" * 2001}], "missing[0].reason has 2001 characters"),
        ([], [7], "missing is not a list"),
        ([], [{"n": 2, "reason": "a"}] * 1001, "missing is not a list of up to 1000"),
    ],
)
async def test_invalid_images_are_refused(db, images, missing, problem):
    _, job = await start_and_claim_generation(db)
    ids = (UUID(job["id"]), UUID(job["lease_id"]))
    refused = await db.refusal("select save_images($1, $2, $3, $4)", *ids, images, missing)
    assert refused.message.startswith("PQ_INVALID_ARGUMENT")
    assert refused.detail.startswith(problem)


async def test_a_new_prediction_does_not_have_the_images_of_an_earlier_prediction(db):
    _, job = await start_and_claim_generation(db)
    ids = (UUID(job["id"]), UUID(job["lease_id"]))
    prediction = UUID((await db.value("select begin_prediction($1, $2)", *ids))["prediction"]["id"])
    await db.run("select save_images($1, $2, $3)", *ids, [IMAGE])
    resumed = await db.value("select begin_prediction($1, $2)", *ids)
    assert [image["n"] for image in resumed["images"]] == [1]
    await db.run("select finish_prediction($1, $2, $3, 'canceled')", *ids, prediction)
    await db.run("update public.images set created_at = created_at - interval '1 second'")
    begun = await db.value("select begin_prediction($1, $2)", *ids)
    assert (begun["resumed"], begun["images"]) == (False, [])
    await db.run("select save_images($1, $2, $3)", *ids, [COMPLETE])
    resumed = await db.value("select begin_prediction($1, $2)", *ids)
    assert [image["sha256"] for image in resumed["images"]] == [HASH]


async def test_begin_prediction_returns_the_setting_strip_metadata(db):
    _, job = await start_and_claim_generation(db)
    ids = (UUID(job["id"]), UUID(job["lease_id"]))
    for value, expected in ((None, True), (False, False), (True, True)):
        await db.value("select set_setting($1)", {"strip_metadata": value})
        assert (await db.value("select begin_prediction($1, $2)", *ids))[
            "strip_metadata"
        ] is expected
