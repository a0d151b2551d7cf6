begin;
select plan(1);

select enqueue_job('t', jsonb_build_object('n', n), p, 'q') from (values (1, 0), (2, 5), (3, 0), (4, 5)) as v (n, p);
create temp table claimed as
select * from jsonb_to_recordset(claim_jobs('w', '{q}', '{t}', 10))
  as j (id uuid, lease_id uuid, attempt integer, payload jsonb, event jsonb, cancel_requested_at timestamptz);
select is((select array_agg(payload ->> 'n') from claimed), '{2,4,1,3}'::text[], 'jobs are claimed by priority, then by age');

select * from finish();
rollback;
