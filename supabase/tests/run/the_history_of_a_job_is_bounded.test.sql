begin;
select plan(2);

select enqueue_job('t', queue => 'q', max_attempts => 100, job_id => '00000000-0000-0000-0000-000000000001');
do $$
begin
  for i in 1..60 loop
    perform picture_queue._do_due_steps(10, false);
    perform report_jobs(jsonb_agg(j || '{"outcome": "failed", "error": "x", "delay_seconds": 0}'::jsonb
      || jsonb_build_object('job_id', j -> 'id'))) from jsonb_array_elements(claim_jobs('w', '{q}', '{t}')) j;
  end loop;
end
$$;
select is((select attempt from job_queue where id = '00000000-0000-0000-0000-000000000001'), 60, 'the job ran 60 times');
select is((select count(*) from picture_queue.history where job_id = '00000000-0000-0000-0000-000000000001'), 50::bigint, 'the last 50 of the changes are kept');

select * from finish();
rollback;
