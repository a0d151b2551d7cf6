begin;
select plan(3);

select is((select enqueue_jobs('[{"job_type": "t", "queue": "q", "payload": {"id": 1}, "options": {"unique": {"by": ["id"], "on_conflict": "ignore"}}}]')) #>> '{0,outcome}', 'created', 'the first job is created');
select is((select enqueue_jobs('[{"job_type": "t", "queue": "q", "payload": {"id": 1, "v": 2}, "options": {"unique": {"by": ["id"], "on_conflict": "ignore"}}}]')) #>> '{0,outcome}', 'existing', 'the second call returns the existing job');
select is((select array_agg(payload) from job_queue where queue = 'q'), array['{"id": 1}']::jsonb[], 'the payload is unchanged');

select * from finish();
rollback;
