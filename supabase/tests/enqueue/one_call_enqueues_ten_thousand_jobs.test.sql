begin;
select plan(2);

select is(
  jsonb_array_length(enqueue_jobs((select jsonb_agg(jsonb_build_object('job_type', 't', 'queue', 'q', 'payload', jsonb_build_object('n', n)))
    from generate_series(1, 10000) n))), 10000, 'the call returns each job');
select is((select count(*) from job_queue where queue = 'q'), 10000::bigint, 'each job is written');

select * from finish();
rollback;
