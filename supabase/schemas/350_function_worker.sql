-- Registers a worker, its queues, and its job types with their policies. The call is idempotent.
create function public.register_worker(worker text, queues text[], job_types jsonb) returns jsonb
language plpgsql security definer set search_path = pg_catalog, pg_temp set lock_timeout = '2s'
as $$
begin
  perform picture_queue._check_isolation();
  perform picture_queue._raise_problem(coalesce(
    case when coalesce(length(worker), 0) not between 1 and 200 or worker ~ '[[:cntrl:]]'
      then format('worker is %s, not 1 to 200 characters without line breaks',
        coalesce(to_jsonb(left(worker, 100)), 'null')) end,
    case when coalesce(cardinality(queues), 0) not between 1 and 1000
      then format('queues has %s entries, not 1 to 1000', coalesce(cardinality(queues), 0)) end,
    (select format('queues has %s', coalesce(to_jsonb(left(q, 100)), 'null')) from unnest(queues) q
      where q is null or picture_queue._value_problem(to_jsonb(q), '["name", 63, "_.-"]') is not null limit 1),
    case when jsonb_typeof(job_types) is distinct from 'object' then 'job_types is not an object' end,
    (select format('job_types has %s entries, at most 1000 are possible', count(*))
      from jsonb_object_keys(job_types) having count(*) > 1000),
    (select p.problem from jsonb_each(job_types) e
      cross join lateral (select coalesce(
        case when picture_queue._value_problem(to_jsonb(e.key), '["name", 128, "_.:-"]') is not null
          then format('job_types has %s, which is not a name', to_jsonb(left(e.key, 100))) end,
        picture_queue._fields_problem(format('job_types.%s.', e.key), e.value,
          picture_queue._policy_rules() || '{"queue": ["name", 63, "_.-"], "capabilities": ["object"]}'),
        picture_queue._fields_problem(format('job_types.%s.capabilities.', e.key), nullif(e.value -> 'capabilities', 'null'), '{
          "webhook": ["boolean"],
          "cancel": ["boolean"],
          "progress": ["boolean"],
          "recover": ["choice", "list", "id", "none"]
        }')) as problem) p
      where p.problem is not null limit 1)));
  -- Do not write unchanged policies, so that a worker that restarts waits for no row lock. Lock the rows in the order
  -- of their names, to avoid deadlocks; `offset 0` keeps the planner from changing the order.
  perform picture_queue._write_row('picture_queue.job_type', 'name', c.name, to_jsonb(c) - 'name')
  from (
    select p.*
    from jsonb_each(job_types) e
    cross join lateral jsonb_populate_record(null::picture_queue.job_type, e.value || jsonb_build_object('name', e.key)) p
    where not exists (select from picture_queue.job_type t where t.name = e.key and to_jsonb(t) = to_jsonb(p))
    order by e.key offset 0
  ) c;
  perform picture_queue._touch_worker(
    worker, queues, array(select k from jsonb_object_keys(job_types) k order by k), false);
  return picture_queue.version();
exception when lock_not_available or deadlock_detected then
  return picture_queue._raise_busy();
end
$$;
comment on function public.register_worker is
  'Registers a worker and its job types; returns the version of the database.';

-- Removes a worker. If it holds the lease of maintenance, the lease ends, and a message tells another worker to
-- acquire it.
create function public.unregister_worker(worker text) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp set lock_timeout = '2s'
as $$
begin
  perform picture_queue._write_row('picture_queue.worker', 'name', worker, null);
  update picture_queue.maintenance m set leased_until = '-infinity'
  where m.only_row = any (array(
    select o.only_row from picture_queue.maintenance o where o.worker = unregister_worker.worker for update skip locked));
  if found then
    perform picture_queue._wake_workers((
      select w.queues[:1] from picture_queue.worker w order by w.seen_at desc limit 1), 'take over');
  end if;
exception when lock_not_available or deadlock_detected then
  perform picture_queue._raise_busy();
end
$$;
comment on function public.unregister_worker is 'Removes a worker that has stopped.';
