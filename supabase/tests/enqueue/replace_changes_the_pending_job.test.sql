begin;
select plan(3);

select enqueue_jobs('[{"job_type": "t", "queue": "q", "payload": {"id": 1}, "options": {"unique": {"by": ["id"], "on_conflict": "replace"}}}]');
select is((select enqueue_jobs('[{"job_type": "t", "queue": "q", "payload": {"id": 1, "v": 2}, "options": {"unique": {"by": ["id"], "on_conflict": "replace"}, "tags": ["new"]}}]')) #>> '{0,outcome}', 'replaced', 'the outcome is replaced');
select is((select payload ->> 'v' from job_queue where queue = 'q'), '2', 'the job has the new payload');
select is((select tags from job_queue where queue = 'q'), '{new}'::text[], 'the job has the new tags');

select * from finish();
rollback;
