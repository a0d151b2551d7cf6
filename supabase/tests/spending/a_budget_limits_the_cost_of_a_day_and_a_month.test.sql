begin;
select plan(10);

create function pg_temp.start(p_user text) returns text language sql as $$ select start_generation('a cat', options => jsonb_build_object('user_id', p_user)) ->> 'generation_id' $$;
create function pg_temp.error_detail(p_sql text) returns text language plpgsql as $$
declare
  v_detail text;
begin
  execute p_sql;
  return null;
exception when others then
  get stacked diagnostics v_detail = pg_exception_detail;
  return v_detail;
end $$;
select pg_temp.start('00000000-0000-0000-0000-0000000000a1');
select set_budget('user:00000000-0000-0000-0000-0000000000a1', '{"usd_per_day": 0.005}');
select matches(pg_temp.error_detail($$ select pg_temp.start('00000000-0000-0000-0000-0000000000a1') $$), '^usd_per_day is 0.005, of which 0.003 is spent, and this generation costs 0.003; retry_after is [0-9.]+ s, at [0-9T:.-]+Z$', 'the detail has the amounts and the time');
select set_budget('user:00000000-0000-0000-0000-0000000000a1', '{"usd_per_day": null, "usd_per_month": 0.005}');
select matches(pg_temp.error_detail($$ select pg_temp.start('00000000-0000-0000-0000-0000000000a1') $$), '^usd_per_month is 0.005, .*-01T00:00:00.000Z$', 'the error has the first day of the next month');
-- The spending was 40 days ago.
update picture_queue.account set day = day - 40;
select is(pg_temp.error_detail($$ select pg_temp.start('00000000-0000-0000-0000-0000000000a1') $$), null, 'in another month the user can start again');
select set_budget('project', '{"usd_per_day": 0.01}');
select is((select day_usd from picture_queue.account where key = 'project'), 0.006, 'the budget of the project counts what was spent before');
select pg_temp.start('00000000-0000-0000-0000-0000000000a2');
select matches(pg_temp.error_detail($$ select pg_temp.start('00000000-0000-0000-0000-0000000000a3') $$), '^usd_per_day is 0.01, of which 0.009 is spent', 'the project cannot spend more');
select matches(pg_temp.error_detail($$ select start_generation('a') $$), '^usd_per_day is 0.01', 'a start without a user counts for the project, too');
select is((select count(*) from generations), 3::bigint, 'a refused start leaves no generation');
select is((select count(*) from job_queue), 3::bigint, 'a refused start leaves no job');
select set_config('request.jwt.claims', '{"role": "authenticated", "sub": "00000000-0000-0000-0000-0000000000a3"}', true);
set local role authenticated;
select matches(pg_temp.error_detail($$ select start_generation('a') $$), '^usd_per_day of the project is used up; retry_after is ', 'a user is not told what the project spends');
reset role;
select set_config('request.jwt.claims', '', true);
select delete_budget('project');
select is(pg_temp.error_detail($$ select pg_temp.start('00000000-0000-0000-0000-0000000000a3') $$), null, 'without a budget the project is not limited');

select * from finish();
rollback;
