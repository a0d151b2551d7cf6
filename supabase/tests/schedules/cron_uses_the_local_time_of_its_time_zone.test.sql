begin;
select plan(4);

select is(picture_queue._cron_next('30 9 * * mon-fri', 'Europe/Berlin', '2026-07-03 08:00+00'), '2026-07-06 07:30+00'::timestamptz, 'the tick after a weekend is on Monday at 9:30 in summer time');
select is(picture_queue._cron_next('30 9 * * *', 'Europe/Berlin', '2026-12-01 00:00+00'), '2026-12-01 08:30+00'::timestamptz, 'the tick of a day in winter is at 9:30 in winter time');
select is(picture_queue._cron_next('30 2 * * *', 'Europe/Berlin', '2026-03-28 12:00+00'), '2026-03-29 01:00+00'::timestamptz, 'a time that the change to summer time skips runs at the change');
select is(picture_queue._cron_next('30 2 * * *', 'Europe/Berlin', '2026-10-25 00:30+00'), '2026-10-26 01:30+00'::timestamptz, 'a time that occurs twice runs once');

select * from finish();
rollback;
