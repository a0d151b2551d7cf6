begin;
select plan(1);

select enqueue_jobs((select jsonb_agg(jsonb_build_object('job_type', 't', 'queue', w)) from generate_series(1, 600), (values ('heavy'), ('light')) as v (w)));
select ok((select count(*) filter (where j ->> 'queue' = 'heavy') between 240 and 345
  from jsonb_array_elements(claim_jobs('w', '{heavy,light}', '{t}', 400, 30, gen_random_uuid(), '{3,1}')) j), 'the heavy queue gets about three of four jobs');

select * from finish();
rollback;
