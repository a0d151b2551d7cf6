begin;
select plan(3);

select enqueue_job('other', job_id => '00000000-0000-0000-0000-000000000001');
select enqueue_batch('[{"job_type": "t", "queue": "q"}]', '{"job_type": "c", "job_id": "00000000-0000-0000-0000-000000000001"}', '00000000-0000-0000-0000-000000000002');
create temp table claimed as
select * from jsonb_to_recordset(claim_jobs('w', '{q}', '{t}', 1))
  as j (id uuid, lease_id uuid);
select is((select report_jobs(jsonb_agg(jsonb_build_object('job_id', id, 'lease_id', lease_id, 'outcome', 'completed'))) #>> '{outcomes,0,outcome}' from claimed), 'ok', 'the outcome is written');
select matches(get_batch('00000000-0000-0000-0000-000000000002') ->> 'callback_error', '^PQ_CONFLICT', 'the batch has the error of the callback');
select throws_like($$ select enqueue_batch('[]', '{"job_type": "c", "options": {"depends_on": ["00000000-0000-0000-0000-000000000001"]}}') $$, 'PQ_INVALID_ARGUMENT%', 'a callback with dependencies is refused');

select * from finish();
rollback;
