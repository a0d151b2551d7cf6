begin;
select plan(6);

select enqueue_job('t', queue => 'q', job_id => '00000000-0000-0000-0000-000000000001');
select enqueue_jobs((select jsonb_agg('{"job_type": "c", "queue": "q", "options": {"depends_on": ["00000000-0000-0000-0000-000000000001"]}}'::jsonb) from generate_series(1, 10000)));
select is((select count(*) from job_queue where queue = 'q' and hold = 'waiting'), 10000::bigint, 'all wait');
create temp table claimed as
select * from jsonb_to_recordset(claim_jobs('w', '{q}', '{t}', 1)) as j (id uuid, lease_id uuid);
select is((select report_jobs(jsonb_agg(jsonb_build_object('job_id', id, 'lease_id', lease_id, 'outcome', 'completed'))) #>> '{outcomes,0,outcome}' from claimed), 'ok', 'it ends');
select is((select count(*) from job_queue where queue = 'q' and status = 'pending' and hold is null), 100::bigint, 'a hundred may run at once');
select picture_queue._do_due_steps(1000, false);
select ok((select count(*) between 1100 and 2100 from job_queue where queue = 'q' and status = 'pending' and hold is null), 'one or two thousand more with each maintenance');
select picture_queue._do_due_steps(1000, false) from generate_series(1, 9);
select is((select count(*) from job_queue where queue = 'q' and status = 'pending' and hold is null), 10000::bigint, 'all may run');
select is((select count(*) from picture_queue.follow_up), 0::bigint, 'and nothing is left to do');

select * from finish();
rollback;
