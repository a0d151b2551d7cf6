begin;
select plan(16);

select register_worker('w', '{images}', '{"generate-image": {"queue": "images"}}');
select set_budget('project', '{"usd_per_day": 100}');
create temporary table run (n serial, generation_id uuid, job_id uuid, lease_id uuid, prediction uuid);
-- Starts a generation of four pictures at 0.003, claims it and begins its prediction.
create function pg_temp.begin_run() returns void language plpgsql as $$
declare
  v_id uuid;
  v_job jsonb;
begin
  v_id := (start_generation('a cat', 'black-forest-labs/flux-schnell', '{"num_outputs": 4}',
    '{"user_id": "00000000-0000-0000-0000-0000000000a1"}') ->> 'generation_id')::uuid;
  v_job := claim_jobs('w', '{images}', '{generate-image}', 1) -> 0;
  insert into run (generation_id, job_id, lease_id, prediction)
  values (v_id, (v_job ->> 'id')::uuid, (v_job ->> 'lease_id')::uuid,
    (begin_prediction((v_job ->> 'id')::uuid, (v_job ->> 'lease_id')::uuid) #>> '{prediction,id}')::uuid);
end $$;
create function pg_temp.save(p_n integer, p_count integer) returns void language sql as $$
  select save_images(r.job_id, r.lease_id, (
    select jsonb_agg(jsonb_build_object('n', i, 'path', 'a' || i, 'mime_type', 'image/png')) from generate_series(1, p_count) i))
  from run r where r.n = p_n $$;
create function pg_temp.finish(p_n integer, p_state text, p_metrics jsonb default null) returns void language sql as $$
  select finish_prediction(r.job_id, r.lease_id, r.prediction, p_state, metrics => p_metrics) from run r where r.n = p_n $$;
create function pg_temp.report(p_n integer, p_outcome text) returns jsonb language sql as $$
  select report_jobs(jsonb_build_array(jsonb_build_object(
    'job_id', r.job_id, 'lease_id', r.lease_id, 'outcome', p_outcome, 'retryable', false))) from run r where r.n = p_n $$;
create function pg_temp.books(p_n integer) returns text language sql as $$
  select string_agg(l.round || ' ' || l.phase || ' ' || trim_scale(l.amount_usd), ', ' order by l.round, l.phase)
  from picture_queue.ledger l join run r on r.generation_id = l.generation_id where r.n = p_n $$;
create function pg_temp.project() returns numeric language sql as $$
  select (picture_queue._read_account('project') ->> 'day_usd')::numeric $$;

select pg_temp.begin_run();
select pg_temp.save(1, 3);
select pg_temp.report(1, 'failed');
select is(pg_temp.books(1), '1 refund 0.003, 1 reserve 0.012, 1 settle 0.009', 'a failed generation costs its three stored pictures');
select is((select (status, cost_usd)::text from generations), '(failed,0.009)', 'the failed generation has the cost of its stored pictures');
select is(pg_temp.project(), 0.012, 'the project counts a prediction whose end is not known as reserved');

select retry_job((select job_id from run where n = 1));
update run set (lease_id) = (select (claim_jobs('w', '{images}', '{generate-image}', 1) #>> '{0,lease_id}')::uuid) where n = 1;
select pg_temp.save(1, 4);
select pg_temp.finish(1, 'succeeded', '{"image_count": 4}');
select pg_temp.report(1, 'completed');
select is(pg_temp.books(1), '1 refund 0.003, 1 reserve 0.012, 1 settle 0.009, 2 refund 0.009, 2 reserve 0.012, 2 settle 0.003', 'a retry costs only the picture that was added');
select is((select (status, cost_usd)::text from generations), '(completed,0.012)', 'four pictures cost four prices');
select is(pg_temp.project(), 0.012, 'the project counts the prediction once');

select pg_temp.begin_run();
select pg_temp.save(2, 1);
select pg_temp.finish(2, 'succeeded', '{"image_count": 4}');
select cancel_generation((select generation_id from run where n = 2));
select pg_temp.report(2, 'cancelled');
select is(pg_temp.books(2), '1 refund 0.009, 1 reserve 0.012, 1 settle 0.003', 'a cancelled generation costs its stored picture');
select is(pg_temp.project(), 0.024, 'the project counts all pictures that the provider made');

select pg_temp.begin_run();
select record_prediction(r.job_id, r.lease_id, r.prediction, 'p3') from run r where n = 3;
select pg_temp.finish(3, 'succeeded', '{"image_count": 4}');
select cancel_generation((select generation_id from run where n = 3));
select pg_temp.report(3, 'cancelled');
select is(pg_temp.books(3), '1 refund 0.012, 1 reserve 0.012', 'a cancelled generation without a picture is refunded');
select is(pg_temp.project(), 0.036, 'the project counts a prediction that succeeded before the cancel');
select delete_budget('project');
select set_budget('project', '{"usd_per_day": 100}');
select is(pg_temp.project(), 0.036, 'a new account of the project counts the same cost');

select pg_temp.begin_run();
select record_prediction(r.job_id, r.lease_id, r.prediction, 'p4') from run r where n = 4;
select pg_temp.finish(4, 'canceled', '{}');
select cancel_generation((select generation_id from run where n = 4));
select pg_temp.report(4, 'cancelled');
select is(pg_temp.project(), 0.036, 'a prediction that was stopped costs the project nothing');
select retry_job((select job_id from run where n = 3));
update run set (lease_id) = (select (claim_jobs('w', '{images}', '{generate-image}', 1) #>> '{0,lease_id}')::uuid) where n = 3;
select is((select begin_prediction(r.job_id, r.lease_id) -> 'resumed' from run r where n = 3), 'false', 'a retry does not resume a prediction without pictures');

select pg_temp.begin_run();
select pg_temp.save(5, 2);
select pg_temp.finish(5, 'succeeded', '{"image_count": -1000}');
select is((select p.cost_usd from picture_queue.prediction p join run r on r.prediction = p.id where r.n = 5), 0.012,
  'a prediction whose number of pictures is negative costs the requested number');
select pg_temp.report(5, 'completed');

select is((select sum(case phase when 'reserve' then amount_usd else -amount_usd end) from picture_queue.ledger
  where generation_id <> (select generation_id from run where n = 3)), 0::numeric, 'all ended rounds balance');
select is((select count(*) from picture_queue.ledger where phase <> 'reserve' and provider_usd is null and (generation_id, round) not in (
  select generation_id, round from picture_queue.ledger where provider_usd is not null)), 0::bigint, 'each ended round has the charge of the provider');

select * from finish();
rollback;
