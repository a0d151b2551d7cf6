begin;
select plan(6);

select enqueue_job('t', queue => 'q', job_id => '00000000-0000-0000-0000-000000000001');
select enqueue_jobs((select jsonb_agg('{"job_type": "c", "queue": "q", "options": {"depends_on": ["00000000-0000-0000-0000-000000000001"]}}'::jsonb) from generate_series(1, 10000)));
select is((select count(*) from job_queue where queue = 'q' and hold = 'waiting'), 10000::bigint, 'all children wait');
create temp table claimed as
select * from jsonb_to_recordset(claim_jobs('w', '{q}', '{t}', 1)) as j (id uuid, lease_id uuid);
select is((select report_jobs(jsonb_agg(jsonb_build_object('job_id', id, 'lease_id', lease_id, 'outcome', 'completed'))) #>> '{outcomes,0,outcome}' from claimed), 'ok', 'the outcome of the parent is written');
select is((select count(*) from job_queue where queue = 'q' and status = 'pending' and hold is null), 100::bigint, '100 children become claimable at once');
select picture_queue._do_due_steps(1000, false);
select ok((select count(*) between 1100 and 2100 from job_queue where queue = 'q' and status = 'pending' and hold is null), 'each round of maintenance makes 1,000 to 2,000 more children claimable');
select picture_queue._do_due_steps(1000, false) from generate_series(1, 9);
select is((select count(*) from job_queue where queue = 'q' and status = 'pending' and hold is null), 10000::bigint, 'all children become claimable');
select is((select count(*) from picture_queue.follow_up), 0::bigint, 'no follow-up is left');

select * from finish();
rollback;
