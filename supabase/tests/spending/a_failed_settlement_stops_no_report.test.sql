begin;
select plan(5);

select register_worker('w', '{images}', '{"generate-image": {"queue": "images"}}');
select start_generation('a cat', options => '{"user_id": "00000000-0000-0000-0000-0000000000a1"}');
create function pg_temp.fail() returns trigger language plpgsql as $$ begin if new.phase <> 'reserve' then raise exception 'broken'; end if; return new; end $$;
create trigger broken before insert on picture_queue.ledger for each row execute function pg_temp.fail();
select report_jobs(jsonb_build_array(jsonb_build_object('job_id', j ->> 'id', 'lease_id', j ->> 'lease_id', 'outcome', 'failed', 'retryable', false))) from jsonb_array_elements(claim_jobs('w', '{images}', '{generate-image}', 1)) j;
select is((select status from generations), 'failed', 'the report is written');
select is((select count(*) from picture_queue.ledger where phase = 'refund'), 0::bigint, 'the refund is not written, since the trigger fails');
select maintain_jobs(true);
select is((select status from generations), 'failed', 'maintenance does not fail, and the job keeps its state');
drop trigger broken on picture_queue.ledger;
-- The step is tried again at once.
delete from picture_queue.failed_step;
select maintain_jobs(true);
select is((select count(*) from picture_queue.ledger where phase = 'refund'), 1::bigint, 'a later round of maintenance writes the refund');
select is(get_account('00000000-0000-0000-0000-0000000000a1') -> 'spent_today_usd', '0.000', 'the account has the refund');

select * from finish();
rollback;
