begin;
select plan(2);

select set_queue('q', '{"breaker_failures": 2}');
select enqueue_job('t', queue => 'q', job_id => '00000000-0000-0000-0000-000000000001');
create temp table claimed as
select * from jsonb_to_recordset(claim_jobs('w', '{q}', '{t}', 1))
  as j (id uuid, lease_id uuid);
select report_jobs(jsonb_agg(jsonb_build_object('job_id', id, 'lease_id', lease_id) || '{"outcome": "failed", "error": "no", "delay_seconds": 0}')) from claimed;
drop table claimed;
select picture_queue.maintain();
create temp table claimed as
select * from jsonb_to_recordset(claim_jobs('w', '{q}', '{t}', 1))
  as j (id uuid, lease_id uuid);
select report_jobs(jsonb_agg(jsonb_build_object('job_id', id, 'lease_id', lease_id) || '{"outcome": "snoozed", "delay_seconds": 0}')) from claimed;
select is((select paused_until from picture_queue.queue where name = 'q'), null, 'a snooze does not count as the second failure');

select enqueue_jobs('[{"job_type": "u", "queue": "q"}, {"job_type": "u", "queue": "q"}, {"job_type": "u", "queue": "q"}]');
select report_jobs((select jsonb_agg(j - 'id' || jsonb_build_object('job_id', j -> 'id', 'outcome', 'failed', 'error', 'bad input', 'retryable', false))
  from jsonb_array_elements(claim_jobs('w', '{q}', '{u}', 3)) as j));
select is((select paused_until from picture_queue.queue where name = 'q'), null, 'failures that are not retryable do not pause the queue');

select * from finish();
rollback;
