begin;
select plan(3);

select enqueue_jobs('[{"job_type": "t", "queue": "q", "payload": {"id": 1}, "options": {"unique": {"by": ["id"], "on_conflict": "replace"}}}]');
select is((select enqueue_jobs('[{"job_type": "t", "queue": "q", "payload": {"id": 1, "v": 2}, "options": {"unique": {"by": ["id"], "on_conflict": "replace"}, "tags": ["new"]}}]')) #>> '{0,outcome}', 'replaced', 'the answer says so');
select is((select payload ->> 'v' from job_queue where queue = 'q'), '2', 'with the new payload');
select is((select tags from job_queue where queue = 'q'), '{new}'::text[], 'and tags');

select * from finish();
rollback;
