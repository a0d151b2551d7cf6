begin;
select plan(4);

select enqueue_job('t', queue => 'q') from generate_series(1, 4);
select enqueue_job('t', queue => 'q', options => '{"delay_seconds": 60}');
create temp table claimed as
select * from jsonb_to_recordset(claim_jobs('w', '{q}', '{t}', 2))
  as j (id uuid, lease_id uuid, attempt integer, payload jsonb, event jsonb, cancel_requested_at timestamptz);
select report_jobs(jsonb_agg(jsonb_build_object('job_id', id, 'lease_id', lease_id, 'outcome', 'completed'))) from claimed;
create temp table counted as select c from jsonb_array_elements(queue_counts()) c where c ->> 'queue' = 'q';
select is((select c ->> 'pending' from counted), '2', 'two jobs are pending');
select is((select c ->> 'scheduled' from counted), '1', 'one job is scheduled');
select is((select c ->> 'completed' from counted), '2', 'two jobs are completed');
select is((select c ->> 'finished_last_minute' from counted), '2', 'two jobs finished in the last minute');

select * from finish();
rollback;
