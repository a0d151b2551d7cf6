-- Answers of calls that must not be made twice: a call that repeats the id of an earlier call returns the earlier
-- answer.

-- Returns the answer that the call with this id gave before; null if the call is new, or has no id. It waits for a
-- first call that has not committed yet.
create function picture_queue._find_answer(p_call text, p_id text) returns jsonb
language plpgsql set search_path = pg_catalog, pg_temp set lock_timeout = '2s'
as $$
begin
  if p_id is null then
    return null;
  end if;
  insert into picture_queue.answer (call, id, at) values (p_call, p_id, picture_queue._now()) on conflict do nothing;
  return (select a.answer from picture_queue.answer a where a.call = p_call and a.id = p_id);
exception when lock_not_available or deadlock_detected then
  return picture_queue._raise_busy();
end
$$;

-- Stores the answer for repetitions of the call, if it has an id, and returns it. _find_answer has inserted the row.
create function picture_queue._store_answer(p_call text, p_id text, p_answer jsonb) returns jsonb
language plpgsql set search_path = pg_catalog, pg_temp
as $$
begin
  if p_id is not null then
    update picture_queue.answer a set answer = p_answer where a.call = p_call and a.id = p_id;
  end if;
  return p_answer;
end
$$;
