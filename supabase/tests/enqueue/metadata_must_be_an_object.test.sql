begin;
select plan(2);

select throws_like($$ select enqueue_job('t', options => '{"metadata": [1]}') $$, 'PQ_INVALID_ARGUMENT%', 'a list is refused');
select enqueue_job('t', queue => 'q', options => '{"metadata": {"ticket": 7}, "tags": ["night"]}');
select is((select (metadata, tags)::text from job_queue where queue = 'q'), ('{"ticket": 7}'::jsonb, '{night}'::text[])::text, 'metadata and tags are stored');

select * from finish();
rollback;
