-- Answers of calls that must take effect only once: a call with the request id of an earlier call returns the earlier
-- answer.

-- Returns the answer that an earlier call with this id gave; null if there was none, or if the id is null. If the
-- earlier call is still in progress, it waits until that transaction ends.
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

-- Stores the answer for repeated calls, if the call has an id, and returns the answer. _find_answer has inserted the
-- row.
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
