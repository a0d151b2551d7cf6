begin;
select plan(5);

insert into picture_queue.limit_rule (key, max_running) values ('queue:other', 1), ('type:other', 1);
select enqueue_job('t', queue => 'q');
select is(jsonb_array_length(claim_jobs('w', '{q}', '{t}', 10)), 1, 'the job starts');
select is(coalesce(current_setting('picture_queue.holds_keys', true), ''), '', 'and no key was looked at');

select enqueue_job('t', queue => 'other') from generate_series(1, 2);
select is(jsonb_array_length(claim_jobs('w', '{q,other}', '{t}', 10)), 1, 'who serves the queue keeps its rule');

select enqueue_job('other', queue => 'q') from generate_series(1, 2);
select is(jsonb_array_length(claim_jobs('w', '{q}', '{t,other}', 10)), 1, 'who runs the type keeps its rule');
select is((select count(*) from claim_next_job('q')), 0::bigint, 'and so does who runs every type');

select * from finish();
rollback;
