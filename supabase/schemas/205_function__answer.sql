-- Calls that cannot be made twice: with an id of the caller's, a repeated one gets the answer of the first.

-- The answer that the call of this id gave before; null if it is new, or has no id. A first call that has not
-- committed yet is waited for.
create function picture_queue._first_answer(p_call text, p_id text) returns jsonb
language plpgsql set search_path = pg_catalog, pg_temp set lock_timeout = '2s'
as $$
begin
  if p_id is null then
    return null;
  end if;
  insert into picture_queue.answer (call, id, at) values (p_call, p_id, picture_queue._now()) on conflict do nothing;
  return (select a.answer from picture_queue.answer a where a.call = p_call and a.id = p_id);
exception when lock_not_available or deadlock_detected then
  perform picture_queue._refuse_busy();
  return null;
end
$$;

-- Keeps the answer for the repetitions of the call, and returns it.
create function picture_queue._keep_answer(p_call text, p_id text, p_answer jsonb) returns jsonb
language plpgsql set search_path = pg_catalog, pg_temp
as $$
begin
  update picture_queue.answer a set answer = p_answer where a.call = p_call and a.id = p_id;
  return p_answer;
end
$$;
