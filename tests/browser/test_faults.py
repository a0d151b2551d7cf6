"""The example page shows the final state despite faults of events, sockets and responses."""

import json
import time

import httpx
import jwt
import pytest

pytestmark = [pytest.mark.extra, pytest.mark.timeout(120)]

COMPLETED = '"status":"completed"'
SESSION = "localStorage[Object.keys(localStorage).find((key) => key.endsWith('-auth-token'))]"


@pytest.fixture
def count_faults_left(stack):
    """Return a function that reads how many more times the gateway will inject a fault."""

    async def read(switch):
        async with httpx.AsyncClient(timeout=10) as http:
            headers = {"apikey": stack.service_role_key}
            return (await http.get(f"{stack.api_url}/_faults", headers=headers)).json()[switch]

    return read


async def read_session(studio):
    """Return the session that the page has stored, and the claims of its token."""
    session = json.loads(await studio.page("evaluate", SESSION))
    return session, jwt.decode(session["access_token"], options={"verify_signature": False})


async def store_session(studio, session, statement=""):
    """Replace the session of the page, and then run a JavaScript statement in the page."""
    text = json.dumps(json.dumps(session))
    await studio.page("evaluate", f"(() => {{ {SESSION} = {text}; {statement} }})()")


async def test_a_page_recovers_from_lost_events(studio, new_worker, faults):
    await faults(drop_messages=1000)
    await studio.start()
    async with new_worker():
        await studio.wait_for_picture()
    assert await studio.count("received", '"broadcast"') == 0


async def test_a_page_ignores_repeated_events(studio, new_worker, faults, manual_worker):
    generation = await studio.start()
    await faults(duplicate_messages=1000)
    work = await manual_worker(generation["job_id"]).claim()
    await work.progress(40)
    await studio.wait_for_frames('"broadcast"', '"progress":40', times=2)
    await studio.wait_for_state("processing", 40)
    await work.report("failed", error="the paint ran out", retryable=False)
    await studio.wait_for_state("failed")
    shown = await studio.shown()
    assert shown.count(("processing", 40)) == 1


async def test_a_page_ignores_late_events(studio, faults, manual_worker):
    generation = await studio.start()
    await faults(delay_messages=1, delay_seconds=1.5)
    work = await manual_worker(generation["job_id"]).claim()  # the event of the claim arrives last
    await work.progress(40)
    await studio.wait_for_frames('"broadcast"', '"progress":40')
    await studio.wait_for_frames('"broadcast"', '"progress":0', '"processing"')
    await work.progress(60)
    await studio.wait_for_state("processing", 60)
    await work.report("failed", error="the paint ran out", retryable=False)
    await studio.wait_for_state("failed")


@pytest.mark.parametrize("finished", ["while it is cut", "afterwards"])
async def test_a_page_recovers_from_a_cut_socket(studio, new_worker, faults, until, finished):
    await studio.start()
    joins = await studio.count_joins()
    await faults(network_cut=True)
    if finished == "while it is cut":
        async with new_worker():
            await studio.wait_for_picture()  # the page reads the row, without events
        assert await studio.count_joins() == joins
        return
    await until(lambda: studio.count("closed"))
    await faults(network_cut=False)
    await studio.wait_until_subscribed(joins + 1)
    async with new_worker():
        await studio.wait_for_picture()
    assert await studio.count("received", '"broadcast"', COMPLETED) == 1


async def test_a_page_recovers_from_a_closed_channel(studio, new_worker, faults):
    await studio.start()
    joins = await studio.count_joins()
    await faults(close_channels="*")
    await studio.wait_until_subscribed(joins + 1)
    async with new_worker():
        await studio.wait_for_picture()
    assert await studio.count("received", '"broadcast"', COMPLETED) == 1


async def test_a_page_recovers_after_the_network_was_down(studio, new_worker, faults):
    await studio.start()
    await faults(network_cut=True)
    await studio.context("setOffline", True)
    async with new_worker():
        await studio.wait_until_finished()
    assert (await studio.shown())[-1][0] == "pending"  # the page cannot know of the end
    await studio.context("setOffline", False)
    await faults(network_cut=False)
    await studio.wait_for_picture()


async def test_a_page_recovers_after_the_device_slept_past_the_timeout(studio, new_worker, faults):
    await studio.start()
    joins = await studio.count_joins()
    await studio.clock("install")
    await studio.page("reload")
    await studio.wait_until_subscribed(joins + 1)
    await faults(network_cut=True)
    await studio.context("setOffline", True)
    async with new_worker():
        await studio.wait_until_finished()
    await studio.clock("fastForward", 11 * 60 * 1000)  # milliseconds: a sleep of eleven minutes
    await studio.context("setOffline", False)
    await studio.wait_for_picture()


async def test_a_page_reloaded_after_the_end_shows_the_result(studio, new_worker, faults):
    await studio.start()
    await studio.context("setOffline", True)
    async with new_worker():
        await studio.wait_until_finished()
    await studio.context("setOffline", False)
    await studio.page("reload")
    if studio.url.endswith("react.html"):
        await studio.wait_for_state("nothing")  # the page resumes only unfinished generations
        return
    await studio.page("click", "#history button")
    await studio.wait_for_picture()


async def test_a_page_retries_failing_calls(studio, new_worker, faults, count_faults_left):
    await studio.start()
    await faults(drop_messages=1000, answer_503=1, path="/rest/v1/job_queue")
    async with new_worker():
        await studio.wait_for_picture()
    assert await count_faults_left("answer_503") == 0


async def test_a_page_retries_a_picture_that_does_not_load(
    studio, new_worker, faults, count_faults_left
):
    await studio.start()
    address = f"/storage/v1/object/sign/pictures/{studio.user_id}"
    await faults(answer_503=2, path=address)
    async with new_worker():
        await studio.wait_for_picture()
    assert await count_faults_left("answer_503") == 0


async def test_a_start_whose_response_is_lost_creates_one_generation(
    studio, new_worker, faults, count_faults_left
):
    await faults(cut_after_commit=1, path="/rest/v1/rpc/start_generation")
    await studio.start()
    assert await count_faults_left("cut_after_commit") == 0
    async with new_worker():
        await studio.wait_for_picture()
    await studio.generation()  # checks that the page created only one generation


async def test_a_page_uses_a_token_that_was_renewed(studio, new_worker, until):
    await studio.start()
    joins = await studio.count_joins()
    session, claims = await read_session(studio)
    # Wait, because a token that is issued in the same second is identical.
    await until(lambda: time.time() >= claims["iat"] + 1)
    # When the page returns to the foreground, supabase-js finds a token that expires soon.
    expiring = session | {"expires_at": int(time.time()) + 30}
    await store_session(studio, expiring, "window.dispatchEvent(new Event('visibilitychange'))")
    await until(lambda: studio.count("sent", '"access_token",{"access_token"'))
    async with new_worker():
        await studio.wait_for_picture()
    assert await studio.count_joins() == joins  # the event arrived over the same channel
    assert await studio.count("received", '"broadcast"', COMPLETED) == 1


async def test_a_page_renews_a_token_that_expired_by_the_servers_clock(studio, stack, new_worker):
    await studio.start()
    session, claims = await read_session(studio)
    claims["exp"] = int(time.time()) - 120
    expired_token = jwt.encode(claims, stack.jwt_secret, algorithm="HS256")
    await store_session(studio, session | {"access_token": expired_token})
    await studio.page("reload")
    async with new_worker():
        await studio.wait_for_picture()
    session, _ = await read_session(studio)
    assert session["access_token"] != expired_token
