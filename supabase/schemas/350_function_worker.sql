-- A worker says who it is and which job types it can run, with their policies; answers the version
-- of this database. Repeating it changes nothing.
create function public.register_worker(worker text, queues text[], job_types jsonb) returns jsonb
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
  v_types text[];
begin
  if coalesce(worker, '') = '' or coalesce(cardinality(queues), 0) = 0
    or jsonb_typeof(job_types) is distinct from 'object'
  then
    perform picture_queue._refuse('PQ_INVALID_ARGUMENT',
      'worker must have a name, queues must not be empty, job_types must be an object');
  elsif jsonb_path_exists(job_types, '$.* ? (@.type() != "object")') then
    perform picture_queue._refuse('PQ_INVALID_ARGUMENT', 'job_types is not an object of objects',
      'the policies of each job type, {} for none');
  end if;
  select coalesce(array_agg(k order by k), '{}') into v_types from jsonb_object_keys(job_types) k;
  insert into picture_queue.job_type as t
    (name, queue, max_attempts, timeout_seconds, lease_seconds, backoff_policy, backoff_seconds, backoff_cap_seconds,
      backoff_jitter)
  select e.key, p.queue, p.max_attempts, p.timeout_seconds, p.lease_seconds, p.backoff_policy, p.backoff_seconds,
    p.backoff_cap_seconds, p.backoff_jitter
  from jsonb_each(job_types) e
  cross join lateral jsonb_to_record(e.value) as p (queue text, max_attempts integer, timeout_seconds real,
    lease_seconds real, backoff_policy text, backoff_seconds real, backoff_cap_seconds real, backoff_jitter real)
  order by e.key
  on conflict (name) do update set queue = excluded.queue, max_attempts = excluded.max_attempts,
    timeout_seconds = excluded.timeout_seconds, lease_seconds = excluded.lease_seconds,
    backoff_policy = excluded.backoff_policy, backoff_seconds = excluded.backoff_seconds,
    backoff_cap_seconds = excluded.backoff_cap_seconds, backoff_jitter = excluded.backoff_jitter,
    registered_at = picture_queue._now()
  where (t.queue, t.max_attempts, t.timeout_seconds, t.lease_seconds, t.backoff_policy, t.backoff_seconds,
      t.backoff_cap_seconds, t.backoff_jitter)
    is distinct from (excluded.queue, excluded.max_attempts, excluded.timeout_seconds, excluded.lease_seconds,
      excluded.backoff_policy, excluded.backoff_seconds, excluded.backoff_cap_seconds, excluded.backoff_jitter);
  perform picture_queue._touch_worker(worker, queues, v_types, false);
  return picture_queue.version();
exception when check_violation then
  perform picture_queue._refuse('PQ_INVALID_ARGUMENT', 'a job type has a name or a policy out of range',
    'names are letters, digits and _ . : - ; times are above 0 and at most 31536000 seconds');
  return null;
when data_exception then
  perform picture_queue._refuse('PQ_INVALID_ARGUMENT', sqlerrm);
  return null;
end
$$;
comment on function public.register_worker is 'A worker says what it can run; answers the version of the database.';

-- Another worker may do the maintenance at once.
create function public.unregister_worker(worker text) returns void
language sql volatile security definer set search_path = pg_catalog, pg_temp
as $$
  update picture_queue.maintenance m set leased_until = '-infinity'
  where m.only_row = any (array(
    select o.only_row from picture_queue.maintenance o where o.worker = unregister_worker.worker for update skip locked));
  delete from picture_queue.worker w where w.name = unregister_worker.worker
$$;
comment on function public.unregister_worker is 'A worker says that it stopped.';
