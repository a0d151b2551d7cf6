begin;
select plan(4);

select set_config('request.jwt.claims', '{"role": "authenticated", "sub": "00000000-0000-0000-0000-0000000000a1"}', true);
set local role authenticated;
create function pg_temp.start_200_times() returns integer language plpgsql as $$
declare
  v_started integer := 0;
begin
  for i in 1..200 loop
    begin
      perform start_generation('a cat');
      v_started := v_started + 1;
    exception when sqlstate 'PT429' then
      null;
    end;
  end loop;
  return v_started;
end $$;
select is(pg_temp.start_200_times(), 20, 'with the default budget, 20 of 200 calls start a generation');
select is(get_account() -> 'pending', '20', 'the user sees 20 pending generations');
select throws_ok($$ select get_account('00000000-0000-0000-0000-0000000000a2') $$, 'PT403', 'PQ_NOT_ALLOWED: this caller has no permission', 'the account of another user is refused');
select throws_ok($$ select grant_credits('00000000-0000-0000-0000-0000000000a1', 5) $$, '42501', null, 'a user cannot grant credits');

select * from finish();
rollback;
