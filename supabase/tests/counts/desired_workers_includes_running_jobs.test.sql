begin;
select plan(2);

select enqueue_job('t', queue => 'q') from generate_series(1, 15);
create temp table claimed as
select * from jsonb_to_recordset(claim_jobs('w', '{q}', '{t}', 5))
  as j (id uuid, lease_id uuid, attempt integer, payload jsonb, event jsonb, cancel_requested_at timestamptz);
select is(desired_workers('q', 10), '{"desired": 2, "running": 5, "ready": 10}', '15 jobs need two workers for 10 jobs each');
select is(desired_workers('q', 1, 0, 3) ->> 'desired', '3', 'max_workers limits the number');

select * from finish();
rollback;
