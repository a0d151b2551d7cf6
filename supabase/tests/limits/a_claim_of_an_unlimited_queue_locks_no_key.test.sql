begin;
select plan(3);

insert into picture_queue.limit_rule (key, max_running) values ('queue:limited', 1);
create temporary view locked as
select count(*)::integer as n from pg_locks where locktype = 'advisory' and classid = 1903326068 and pid = pg_backend_pid();

select enqueue_job('t', queue => 'plain') from generate_series(1, 3);
select is(jsonb_array_length(claim_jobs('w', '{plain}', '{t}', 2)), 2, 'two jobs of the unlimited queue start');
select is((select n from locked), 0, 'the claim locks no key');

select enqueue_job('t', queue => 'limited');
select claim_jobs('w', '{limited}', '{t}', 2);
select is((select n from locked), 1, 'a claim of the limited queue locks its key');

select * from finish();
rollback;
