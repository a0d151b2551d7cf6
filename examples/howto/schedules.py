"""Schedules: recurring jobs by cron, time zone and interval."""

from picture_queue import PictureQueue
from picture_queue.errors import InvalidCron

with PictureQueue.from_env() as pq:
    nightly = pq.schedules.set(
        "nightly-report",
        "report",
        {"full": True},
        cron="30 3 * * mon-fri",  # 03:30 in Berlin, in summer and in winter
        timezone="Europe/Berlin",
        missed="once",  # after an outage of a week: one report, not five
        queue="howto-schedules",
    )
    print("next:", nightly.next_at)
    pq.schedules.set("heartbeat", "ping", every=30, queue="howto-schedules", missed="skip")

    extra = pq.schedules.run("nightly-report")  # runs now as well; the next tick stays the same
    assert pq.jobs.get(extra.id).metadata["schedule"] == "nightly-report"
    assert pq.schedules.pause("heartbeat").next_at is None
    assert pq.schedules.resume("heartbeat").next_at is not None

    try:
        pq.schedules.set("never", "report", cron="0 0 30 2 *")
    except InvalidCron as error:
        print(error)

    for name in ("nightly-report", "heartbeat"):
        pq.schedules.delete(name)
    pq.jobs.cancel(extra.id)
