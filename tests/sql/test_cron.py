"""Cron expressions, compared with cronsim, a library that follows the rules of Debian's cron."""

import random
from datetime import UTC, datetime, timedelta
from itertools import islice
from zoneinfo import ZoneInfo

import pytest
from cronsim import CronSim

ZONES = (
    "UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu",
    "America/St_Johns", "Pacific/Auckland", "Asia/Tehran", "America/Sao_Paulo", "Africa/Casablanca",
    "Pacific/Apia", "Europe/Dublin",
)  # fmt: skip
# Changes to or from summer time in some of these zones, and a leap day.
CLOCK_CHANGES = (
    "2024-03-31T01:00", "2024-10-27T01:00", "2024-03-10T07:00", "2024-11-03T06:00",
    "2024-10-05T15:30", "2024-04-06T15:00", "2011-12-30T10:00", "2024-02-29T12:00",
    "2018-11-04T03:00", "2022-09-21T20:30",
)  # fmt: skip
WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")


def random_field(rng, low, high, names=()):
    def number(value):
        name = names[(value - low) % len(names)] if names else ""
        return name if name and rng.random() < 0.5 else str(value)

    def part():
        kind = rng.random()
        first, last = sorted((rng.randint(low, high), rng.randint(low, high)))
        if kind < 0.5:
            return number(first)
        step = f"/{rng.randint(1, max(1, high // 2))}" if rng.random() < 0.4 else ""
        if kind < 0.65:
            return f"*{step}"
        # No step for a range of one number: cronsim reads 0-0/2 as 0/2, a step up to the maximum.
        return f"{first}-{last}{step if first < last else ''}"

    return ",".join(part() for _ in range(rng.choice((1, 1, 1, 2, 3))))


def random_expression(rng):
    fields = (
        rng.random() < 0.2 or random_field(rng, 0, 59),
        rng.random() < 0.4 or random_field(rng, 0, 23),
        rng.random() < 0.5 or random_field(rng, 1, 31),
        rng.random() < 0.6 or random_field(rng, 1, 12, MONTHS),
        rng.random() < 0.5 or random_field(rng, 0, 7, WEEKDAYS),
    )
    return " ".join("*" if field is True else field for field in fields)


def random_time(rng):
    if rng.random() < 0.5:
        near = datetime.fromisoformat(rng.choice(CLOCK_CHANGES)).replace(tzinfo=UTC)
        return near + timedelta(seconds=rng.randint(-30 * 3600, 30 * 3600))
    first = int(datetime(2001, 1, 1, tzinfo=UTC).timestamp())
    last = int(datetime(2026, 1, 1, tzinfo=UTC).timestamp())
    return datetime.fromtimestamp(rng.randint(first, last), UTC)


def next_by_cronsim(cron, zone, after):
    """Return the next time by cronsim, or None if it is over eight years away, as in SQL."""
    try:
        found = next(CronSim(cron, after.astimezone(ZoneInfo(zone)))).astimezone(UTC)
    except (StopIteration, ValueError):
        return None
    except Exception as error:  # no month of the expression has a day of the expression
        assert type(error).__name__ == "CronSimError", error
        return None
    return found if found <= after + timedelta(days=8 * 365) else None


def matches(cron, zone, at):
    """Return True if the local time matches the expression."""
    matcher, clock = CronSim(cron, datetime(2000, 1, 1)), at.astimezone(ZoneInfo(zone))
    return (
        clock.minute in matcher.minutes
        and clock.hour in matcher.hours
        and clock.month in matcher.months
        and matcher.match_day(clock.date())
    )


def is_acceptable(cron, zone, actual, expected):
    """Return True if the time equals that of cronsim, or cronsim is known to be wrong.

    For fields with a star cronsim advances by whole hours. If clocks change by half an hour or at
    midnight, it therefore skips a matching time, or returns one that does not match.
    """
    if actual == expected or None in (actual, expected):
        return actual == expected
    minute, hour, *_ = cron.split()
    has_star = "*" in (minute[0], hour[0])
    return (
        has_star
        and matches(cron, zone, actual)
        and (actual < expected or not matches(cron, zone, expected))
    )


async def next_times(db, cases):
    rows = await db.rows(
        """select picture_queue._cron_next(cron, zone, after) as next
        from unnest($1::text[], $2::text[], $3::timestamptz[]) with ordinality
          as cases (cron, zone, after, number)
        order by number""",
        *map(list, zip(*cases, strict=True)),
    )
    return [row["next"] for row in rows]


@pytest.mark.parametrize("seed", range(4))
async def test_random_expressions_give_the_same_times_as_cronsim(db, seed):
    rng = random.Random(seed)
    cases = [(random_expression(rng), rng.choice(ZONES), random_time(rng)) for _ in range(700)]
    found = await next_times(db, cases)
    wrong = [
        f"{cron!r} {zone} after {after}: {actual}, cron: {expected}"
        for (cron, zone, after), actual in zip(cases, found, strict=True)
        if not is_acceptable(cron, zone, actual, expected := next_by_cronsim(cron, zone, after))
    ]
    assert wrong == []


# "0 */2 * * *" on Lord Howe is left out: cronsim advances by whole hours and skips 02:00 there.
@pytest.mark.parametrize(
    ("zone", "cron"),
    [
        (zone, cron)
        for zone in ("Europe/Berlin", "America/New_York", "Australia/Lord_Howe")
        for cron in ("*/15 * * * *", "30 2 * * *", "15,45 1-3 * * *", "0 */2 * * *", "10 * * * *")
        if (zone, cron) != ("Australia/Lord_Howe", "0 */2 * * *")
    ],
)
async def test_times_around_clock_changes_equal_those_of_cronsim(db, zone, cron):
    for change in CLOCK_CHANGES[:6]:  # the changes in these three zones
        at = datetime.fromisoformat(change).replace(tzinfo=UTC) - timedelta(hours=20)
        expected = [
            tick.astimezone(UTC)
            for tick in islice(CronSim(cron, at.astimezone(ZoneInfo(zone))), 60)
        ]
        rows = await db.rows(
            """with recursive t as (
              select picture_queue._cron_next($1, $2, $3) as at, 1 as n
              union all select picture_queue._cron_next($1, $2, at), n + 1 from t where n < 60
            ) select at from t order by n""",
            cron, zone, at,
        )  # fmt: skip
        assert [row["at"] for row in rows] == expected


@pytest.mark.parametrize(
    ("cron", "zone", "after", "expected"),
    [
        # In spring 02:30 does not exist; the job runs at the first moment after the change.
        ("30 2 * * *", "Europe/Berlin", "2024-03-31T00:00", "2024-03-31T01:00"),
        # In autumn 02:30 occurs twice; a job at a fixed time runs only the first time.
        ("30 2 * * *", "Europe/Berlin", "2024-10-27T00:00", "2024-10-27T00:30"),
        ("30 2 * * *", "Europe/Berlin", "2024-10-27T00:30", "2024-10-28T01:30"),
        # An expression with a star matches both times.
        ("30 * * * *", "Europe/Berlin", "2024-10-27T00:30", "2024-10-27T01:30"),
        # The clocks of Lord Howe change by half an hour: 02:00 becomes 02:30.
        ("15 2 * * *", "Australia/Lord_Howe", "2024-10-05T15:00", "2024-10-05T15:30"),
        ("45 1 * * *", "Australia/Lord_Howe", "2024-04-06T14:50", "2024-04-07T15:15"),
        ("0 */2 * * *", "Australia/Lord_Howe", "2024-04-06T14:50", "2024-04-06T15:30"),
        # Samoa had no 30 December 2011.
        ("0 12 * * *", "Pacific/Apia", "2011-12-29T23:00", "2011-12-30T10:00"),
        ("0 0 29 2 *", "UTC", "2024-02-29T00:00", "2028-02-29T00:00"),
        ("0 0 29 2 *", "UTC", "2096-02-29T00:00", "2104-02-29T00:00"),
        ("0 0 * * 7", "UTC", "2024-06-01T00:00", "2024-06-02T00:00"),
        ("0 0 * * SUN", "UTC", "2024-06-01T00:00", "2024-06-02T00:00"),
        ("0 0 * jan-MAR fri-7", "UTC", "2024-06-01T00:00", "2025-01-03T00:00"),
        # If both day fields are restricted, one match suffices; if one begins with a star, both
        # must match.
        ("0 0 13 * fri", "UTC", "2024-06-08T00:00", "2024-06-13T00:00"),
        ("0 0 13 * fri", "UTC", "2024-06-13T00:00", "2024-06-14T00:00"),
        ("0 0 */2 * fri", "UTC", "2024-06-08T00:00", "2024-06-21T00:00"),
        ("5/20 0 * * *", "UTC", "2024-06-08T00:05", "2024-06-08T00:25"),
        ("  @Daily ", "Asia/Kathmandu", "2024-06-08T00:00", "2024-06-08T18:15"),
        ("@hourly", "UTC", "2024-06-08T00:59", "2024-06-08T01:00"),
        ("@weekly", "UTC", "2024-06-08T00:59", "2024-06-09T00:00"),
        ("@monthly", "UTC", "2024-06-08T00:59", "2024-07-01T00:00"),
        ("@yearly", "UTC", "2024-06-08T00:59", "2025-01-01T00:00"),
        # These days do not exist.
        ("0 0 30 2 *", "UTC", "2024-01-01T00:00", None),
        ("0 0 31 4,6,9,11 *", "UTC", "2024-01-01T00:00", None),
    ],
)
async def test_special_times_are_exact(db, cron, zone, after, expected):
    at = datetime.fromisoformat(after).replace(tzinfo=UTC)
    found = (await next_times(db, [(cron, zone, at)]))[0]
    assert found == (expected and datetime.fromisoformat(expected).replace(tzinfo=UTC))


@pytest.mark.parametrize(
    ("cron", "detail"),
    [
        ("60 * * * *", 'minute is "60"'),
        ("-1 * * * *", 'minute is "-1"'),
        ("* 24 * * *", 'hour is "24"'),
        ("* * 0 * *", 'day of month is "0"'),
        ("* * 32 * *", 'day of month is "32"'),
        ("* * * 13 *", 'month is "13"'),
        ("* * * foo *", 'month is "foo"'),
        ("* * * * 8", 'day of week is "8"'),
        ("* * * * mon-foo", 'day of week is "mon-foo"'),
        ("* * * * 5-1", "ends before it begins"),
        ("*/0 * * * *", 'minute is "*/0"'),
        ("*/60 * * * *", 'minute is "*/60"'),
        ("1,,2 * * * *", 'minute is ""'),
        ("1, * * * *", 'minute is ""'),
        ("1-2-3 * * * *", 'minute is "1-2-3"'),
        ("99999 * * * *", 'minute is "99999"'),
        ("* * L * *", 'day of month is "l"'),
        ("* * * *", "4 fields"),
        ("* * * * * *", "6 fields"),
        ("@reboot", "1 fields"),
        ("", "not 5"),
    ],
)
async def test_the_error_for_an_invalid_expression_names_field_and_value(db, cron, detail):
    fields = {"cron": cron, "job_type": "sql-resize"}
    error = await db.refusal("select set_schedule('sql-tick', $1)", fields)
    assert error.message.startswith("PQ_INVALID_CRON") or "PQ_INVALID_CRON" in str(error)
    assert detail in str(error.detail)


@pytest.mark.parametrize("zone", ["Mars/Olympus", "CEST", "UTC+3", "", "Europe"])
async def test_an_unknown_time_zone_is_refused(db, zone):
    fields = {"cron": "@daily", "timezone": zone, "job_type": "sql-resize"}
    error = await db.refusal("select set_schedule('sql-tick', $1)", fields)
    assert "PQ_INVALID_CRON" in str(error)
    assert f'timezone is "{zone}"' in str(error.detail)


async def test_an_impossible_date_is_refused(db):
    fields = {"cron": "0 0 30 feb *", "job_type": "sql-resize"}
    error = await db.refusal("select set_schedule('sql-tick', $1)", fields)
    assert "PQ_INVALID_CRON" in str(error)
    assert "has no date" in str(error.detail)


async def test_expressions_do_not_depend_on_standard_conforming_strings(db):
    await db.run("set local standard_conforming_strings = off")
    at = "'2026-01-01 00:00+00'::timestamptz"
    next_at = await db.value(f"select picture_queue._cron_next('*/15  9-17 * * mon', 'UTC', {at})")
    assert next_at.isoformat() == "2026-01-05T09:00:00+00:00"
    reason = "select picture_queue._reason('job 0a1b2c3d-0000-4000-8000-000000000000: 12 of 0xff')"
    assert await db.value(reason) == "job ID: N of ID"
