begin;
select plan(13);

create temporary table started (n serial, id uuid);
select register_worker('w', '{images}', '{"generate-image": {"queue": "images"}}');
create function pg_temp.start(p_options jsonb default '{}') returns uuid language sql as $$
  select (start_generation('a cat', 'black-forest-labs/flux-schnell', '{"num_outputs": 2}',
    p_options || '{"user_id": "00000000-0000-0000-0000-0000000000a1"}') ->> 'generation_id')::uuid $$;
insert into started (id) select pg_temp.start() from generate_series(1, 3);
select is((select sum(cost_usd) from generations), 0.018, 'two pictures of three generations at 0.003 are reserved');
select is(get_account('00000000-0000-0000-0000-0000000000a1') -> 'spent_today_usd', '0.018', 'the account counts the cost of all three generations');
select is(get_account('00000000-0000-0000-0000-0000000000a1') -> 'pending', '3', 'three generations are pending');
create temporary table job as select j.* from jsonb_to_recordset(claim_jobs('w', '{images}', '{generate-image}', 2)) as j (id uuid, lease_id uuid, generation_id uuid);
select save_images(id, lease_id, '[{"n": 1, "path": "a", "mime_type": "image/png"}]') from job order by id limit 1;
select report_jobs(jsonb_build_array(jsonb_build_object('job_id', id, 'lease_id', lease_id, 'outcome', 'completed'))) from (select * from job order by id limit 1) j;
select report_jobs(jsonb_build_array(jsonb_build_object('job_id', id, 'lease_id', lease_id, 'outcome', 'failed', 'retryable', false))) from (select * from job order by id desc limit 1) j;
select is((select cost_usd from generations where status = 'completed'), 0.003, 'one stored picture of two costs half');
select is((select cost_usd from generations where status = 'failed'), 0::numeric, 'a failed generation costs nothing');
select cancel_generation((select id from generations where status = 'pending'));
select is((select cost_usd from generations where status = 'cancelled'), 0::numeric, 'a cancelled generation costs nothing');
select is(get_account('00000000-0000-0000-0000-0000000000a1') -> 'spent_today_usd', '0.003', 'the refunds are subtracted');
select is(get_account('00000000-0000-0000-0000-0000000000a1') -> 'pending', '0', 'no generation is pending');
select is((select string_agg(phase || ' ' || n || ' ' || usd, ', ' order by phase) from (select phase, count(*) n, sum(amount_usd) usd from picture_queue.ledger group by phase) l), 'refund 3 0.015, reserve 3 0.018, settle 1 0.003', 'the ledger has each row once');
select picture_queue._settle(array(select id from generations));
select is((select count(*) from picture_queue.ledger), 7::bigint, 'a repeated settlement changes nothing');
select retry_job((select job_id from generations where status = 'pending' or status = 'failed' limit 1));
select is((select (cost_usd, status)::text from generations where status = 'pending'), '(0.006,pending)', 'a retry reserves again');
select is((select max(round) from picture_queue.ledger), 2, 'the ledger has the retry as round 2');
delete from job_queue;
delete from generations;
select is((select picture_queue.repair() -> 'reservations'), '1', 'a repair refunds the reservation of a deleted generation');

select * from finish();
rollback;
