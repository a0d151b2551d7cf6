"""Schedules: recurring jobs, one for each tick, with any number of workers."""

from picture_queue import PictureQueue
from picture_queue.errors import InvalidCron

with PictureQueue.from_env() as pq:
    nightly = pq.schedules.set(
        "nightly-report",
        "report",
        {"full": True},
        cron="30 3 * * mon-fri",  # 03:30 in Berlin, in summer and in winter
        timezone="Europe/Berlin",
        missed="once",  # one report after an outage of a week, not five
        queue="howto-schedules",
    )
    print("next:", nightly.next_at)
    pq.schedules.set("heartbeat", "ping", every=30, queue="howto-schedules", missed="skip")

    now = pq.schedules.run("nightly-report")  # does not change its ticks
    assert pq.jobs.get(now.id).metadata["schedule"] == "nightly-report"
    assert pq.schedules.pause("heartbeat").next_at is None
    assert pq.schedules.resume("heartbeat").next_at is not None

    try:
        pq.schedules.set("never", "report", cron="0 0 30 2 *")
    except InvalidCron as error:
        print(error)

    for name in ("nightly-report", "heartbeat"):
        pq.schedules.delete(name)
    pq.jobs.cancel(now.id)
