begin;
select plan(3);

select enqueue_job('t', queue => 'q') from generate_series(1, 2);
select enqueue_job('t', queue => 'q', options => '{"delay_seconds": 60}');
select is(purge_queue('q', true), '{"matched": 3, "changed": 0, "more": false}', 'a preview counts the pending jobs');
create temp table claimed as
select * from jsonb_to_recordset(claim_jobs('w', '{q}', '{t}', 1))
  as j (id uuid, lease_id uuid, attempt integer, payload jsonb, event jsonb, cancel_requested_at timestamptz);
select is(purge_queue('q') ->> 'changed', '2', 'the purge cancels two jobs');
select is((select array_agg(status order by status) from job_queue where queue = 'q'), '{cancelled,cancelled,processing}', 'the running job continues');

select * from finish();
rollback;
