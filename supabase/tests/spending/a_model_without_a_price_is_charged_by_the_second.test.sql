begin;
select plan(6);

select register_worker('w', '{images}', '{"generate-image": {"queue": "images"}}');
select start_generation('a cat', 'stability-ai/sdxl', '{"num_outputs": 2}');
select is((select (cost_usd, cost_is_estimate)::text from generations), '(0.014,t)', 'the estimate is two pictures, each of 5 seconds for 0.0014 dollars a second');
create temporary table job as select j.* from jsonb_to_recordset(claim_jobs('w', '{images}', '{generate-image}', 1)) as j (id uuid, lease_id uuid);
select begin_prediction(id, lease_id) from job;
select finish_prediction(j.id, j.lease_id, p.id, 'succeeded', metrics => '{"predict_time": 7.25}') from job j cross join picture_queue.prediction p;
select is((select cost_usd from picture_queue.prediction), 0.01015, 'the prediction costs its measured 7.25 seconds');
select report_jobs(jsonb_build_array(jsonb_build_object('job_id', id, 'lease_id', lease_id, 'outcome', 'completed'))) from job;
select is((select cost_usd from generations), 0.01015, 'the generation costs as much as its prediction');
select is((select amount_usd from picture_queue.ledger where phase = 'refund'), 0.00385, 'the difference to the estimate is refunded');
select start_generation('a cat', 'black-forest-labs/flux-kontext-dev', '{"input_image": "https://example.com/a.png"}');
select is((select count(*) from generations where cost_usd is null), 1::bigint, 'the cost is unknown for a model without a price and without typical seconds');
select set_setting('{"estimate_usd_per_second": 0.001}');
select start_generation('a cat', 'stability-ai/sdxl');
select is((select cost_usd from generations where status = 'pending' and cost_usd is not null), 0.005, 'a generation costs 5 seconds for the dollars a second in the setting');

select * from finish();
rollback;
