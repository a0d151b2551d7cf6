begin;
select plan(2);

select enqueue_job('t', queue => 'q', job_id => j) from (values ('00000000-0000-0000-0000-000000000001'::uuid), ('00000000-0000-0000-0000-000000000002')) as v (j);
select is(job_position('00000000-0000-0000-0000-000000000002') ->> 'position', '2', 'the second job has position 2');
create temp table claimed as
select * from jsonb_to_recordset(claim_jobs('w', '{q}', '{t}', 1))
  as j (id uuid, lease_id uuid, attempt integer, payload jsonb, event jsonb, cancel_requested_at timestamptz);
select is(job_position('00000000-0000-0000-0000-000000000001') ->> 'position', null, 'a running job has no position');

select * from finish();
rollback;
