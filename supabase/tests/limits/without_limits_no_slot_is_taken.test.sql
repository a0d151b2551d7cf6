begin;
select plan(1);

select enqueue_job('t', queue => 'q', options => '{"limit_keys": ["k"]}');
create temp table claimed as
select * from jsonb_to_recordset(claim_jobs('w', '{q}', '{t}', 1))
  as j (id uuid, lease_id uuid, attempt integer, payload jsonb, event jsonb, cancel_requested_at timestamptz);
select is((select count(*) from picture_queue.slot where job_id in (select id from claimed)), 0::bigint, 'nothing is counted');

select * from finish();
rollback;
