begin;
select plan(3);

insert into public.job_queue (id, job_type, status, attempt, lease_id, lease_expires_at, lease_seconds, worker, started_at)
values ('00000000-0000-0000-0000-00000000000a', 't', 'processing', 1, '00000000-0000-0000-0000-000000000001',
  now() + interval '1 minute', 60, 'w', now());

select is(
  report_jobs('[{"job_id": "00000000-0000-0000-0000-00000000000a", "lease_id": "00000000-0000-0000-0000-000000000002",
    "outcome": "completed"}]') #>> '{outcomes,0,outcome}', 'stale', 'a report under another lease is stale');
select is(
  (select status from public.job_queue where id = '00000000-0000-0000-0000-00000000000a'), 'processing', 'the job still runs');
select is(
  report_jobs('[{"job_id": "00000000-0000-0000-0000-00000000000a", "lease_id": "00000000-0000-0000-0000-000000000001",
    "outcome": "completed"}]') #>> '{outcomes,0,outcome}', 'ok', 'a report under the current lease is accepted');

select * from finish();
rollback;
