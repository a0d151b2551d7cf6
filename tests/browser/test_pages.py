"""The two pages of the example, without faults: one with plain JavaScript, one with React."""

import pytest

pytestmark = [pytest.mark.extra, pytest.mark.timeout(120)]


async def test_a_page_shows_the_picture(studio, new_worker):
    await studio.start()
    async with new_worker():
        await studio.wait_for_picture()
    statuses = [status for status, _ in await studio.shown()]
    assert statuses[0] == "nothing" and {"pending", "completed"} <= set(statuses)
    assert await studio.text("#status") == "Here it is"
    assert await studio.count("received", '"broadcast"', '"status":"completed"') == 1


async def test_a_page_shows_reported_progress(studio, manual_worker):
    generation = await studio.start()
    work = await manual_worker(generation["job_id"]).claim()
    await work.progress(40)
    await studio.wait_for_state("processing", 40)
    assert await studio.text("#status") == "Drawing"
    await work.report("failed", error="the paint ran out", retryable=False)
    await studio.wait_for_state("failed")
    # The event shows the end without the reason. So the page reads the row.
    await studio.until("document.querySelector('#error')?.textContent === 'the paint ran out'")


async def test_a_pending_generation_is_cancelled_at_once(studio):
    await studio.start()
    await studio.page("click", "#cancel")
    await studio.wait_for_state("cancelled")
    assert (await studio.generation())["status"] == "cancelled"


async def test_a_running_generation_gets_a_cancel_request(studio, manual_worker, until, db):
    generation = await studio.start()
    work = await manual_worker(generation["job_id"]).claim()
    await studio.wait_for_state("processing")
    await studio.page("click", "#cancel")
    is_requested = "select cancel_requested_at is not null from job_queue where id = $1"
    await until(lambda: db.fetchval(is_requested, generation["job_id"]))
    await work.report("cancelled")
    await studio.wait_for_state("cancelled")


async def test_a_page_shows_the_code_of_a_refused_start(studio):
    await studio.page(
        "evaluate", "document.querySelector('#model').add(new Option('no/such-model'))"
    )
    await studio.page("selectOption", "#model", "no/such-model")
    await studio.page("fill", "#prompt", "A lighthouse")
    await studio.page("click", "#generate")
    await studio.until("document.querySelector('#error')?.dataset.code === 'PQ_UNKNOWN_MODEL'")
    assert "list_models() shows the models of this project" in await studio.text("#error")
    await studio.wait_for_state("nothing")


async def test_a_reloaded_page_resumes_following(studio, new_worker, manual_worker):
    await studio.start()
    joins = await studio.count_joins()
    await studio.page("reload")
    await studio.wait_until_subscribed(joins + 1)
    await studio.wait_for_state("pending")
    async with new_worker():
        await studio.wait_for_picture()


async def test_a_second_generation_shows_its_own_picture(studio, new_worker):
    async with new_worker():
        await studio.start("A lighthouse at dusk")
        await studio.wait_for_picture()
        first = await studio.page("getAttribute", "#picture", "src")
        await studio.start("A forest in the rain")
        await studio.wait_for_picture()
    assert await studio.page("getAttribute", "#picture", "src") != first
    assert await studio.page("getAttribute", "#picture", "alt") == "A forest in the rain"
