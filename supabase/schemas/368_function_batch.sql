-- Enqueues a batch of jobs. When all have finished, successfully or not, the callback job is enqueued; its payload
-- gets batch_id and the counts. A call that repeats a batch_id returns the existing jobs; a call that repeats a
-- request_id returns the answer of the first call.
create function public.enqueue_batch(
  jobs jsonb, callback jsonb default null, batch_id uuid default gen_random_uuid(), metadata jsonb default '{}',
  request_id uuid default null)
returns jsonb
language plpgsql security definer set search_path = pg_catalog, pg_temp set lock_timeout = '2s'
as $$
declare
  v_answer jsonb := picture_queue._find_answer('enqueue_batch', request_id::text);
  v_jobs jsonb;
begin
  if v_answer is not null then
    return v_answer;
  end if;
  batch_id := coalesce(batch_id, gen_random_uuid());
  metadata := coalesce(nullif(metadata, 'null'), '{}');
  callback := nullif(callback, 'null');
  perform picture_queue._raise_problem(coalesce(
    case when jsonb_typeof(metadata) <> 'object' then 'metadata is not an object' end,
    'metadata ' || picture_queue._json_problem(metadata, (select s.max_payload_bytes from picture_queue.setting s)),
    case when jsonb_typeof(callback) <> 'object' then 'callback is not a job' end,
    (select format('callback: options.%s is not possible, since a callback waits only for its batch', k)
      from unnest('{depends_on,batch_id}'::text[]) k where callback -> 'options' -> k <> 'null' limit 1)));
  if callback is not null then
    -- Check the callback as it will be enqueued, with the longest possible counts in its payload.
    perform picture_queue._check_jobs(jsonb_build_array(case
      when coalesce(jsonb_typeof(callback -> 'payload') in ('object', 'null'), true)
      then callback || jsonb_build_object('payload',
        coalesce(nullif(callback -> 'payload', 'null'), '{}') || jsonb_build_object('batch_id', batch_id,
          'total', 1000000000, 'completed', 1000000000, 'failed', 1000000000, 'cancelled', 1000000000))
      else callback end), 'callback');
  end if;
  insert into picture_queue.batch (id, callback, metadata, created_at)
  values (enqueue_batch.batch_id, enqueue_batch.callback, enqueue_batch.metadata, picture_queue._now())
  on conflict (id) do nothing;
  if not found then
    return picture_queue._store_answer('enqueue_batch', request_id::text, jsonb_build_object('batch_id', batch_id, 'jobs', (
      select coalesce(jsonb_agg(jsonb_build_object('job_id', j.id, 'outcome', 'existing') order by j.seq), '[]')
      from (select * from public.job_queue o where o.batch_id = enqueue_batch.batch_id order by o.seq limit 100000) j)));
  end if;
  v_jobs := picture_queue._enqueue(case when jsonb_typeof(jobs) = 'array' then (
    select coalesce(jsonb_agg(e.item || jsonb_build_object('options',
        coalesce(nullif(e.item -> 'options', 'null'), '{}') || jsonb_build_object('batch_id', enqueue_batch.batch_id))
      order by e.i), '[]')
    from jsonb_array_elements(jobs) with ordinality as e (item, i)) else jobs end);
  -- A batch without jobs has finished at once, so enqueue its callback.
  perform picture_queue._count_batches(array[enqueue_batch.batch_id]);
  return picture_queue._store_answer('enqueue_batch', request_id::text,
    jsonb_build_object('batch_id', batch_id, 'jobs', v_jobs));
exception when others then
  perform picture_queue._translate_error(sqlstate, sqlerrm, 'another call needs some of the same ids, keys, batches or parents');
  raise;
end
$$;
comment on function public.enqueue_batch is
  'Enqueues a batch of jobs, and a callback that runs when all have finished.';

create function public.get_batch(batch_id uuid) returns jsonb
language plpgsql stable security definer set search_path = pg_catalog, pg_temp set lock_timeout = '2s'
as $$
begin
  -- Add the changes of the counts that maintenance has not moved from follow_up to the batch yet.
  return picture_queue._require((
    select to_jsonb(b) || jsonb_build_object(
      'completed', c.completed, 'failed', c.failed, 'cancelled', c.cancelled,
      'open', b.total - c.completed - c.failed - c.cancelled,
      'progress', case when b.total = 0 then 100 else 100 * (c.completed + c.failed + c.cancelled) / b.total end)
    from picture_queue.batch b
    cross join lateral (
      select b.completed + coalesce(sum((f.data ->> 'completed')::integer), 0) as completed,
        b.failed + coalesce(sum((f.data ->> 'failed')::integer), 0) as failed,
        b.cancelled + coalesce(sum((f.data ->> 'cancelled')::integer), 0) as cancelled
      from picture_queue.follow_up f where f.subject = b.id and f.kind = 'batch') c
    where b.id = get_batch.batch_id), 'PQ_UNKNOWN_BATCH', format('batch_id is %s', get_batch.batch_id));
exception when lock_not_available or deadlock_detected then
  return picture_queue._raise_busy();
end
$$;
comment on function public.get_batch is 'A batch with its counts and progress.';
