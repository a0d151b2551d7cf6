-- Steps that process many subjects, so that a failure of one does not stop the others.

-- Returns whether a retry may succeed: after a deadlock or serialization failure (40), a lack of resources (53), a lock
-- timeout (55P03), an object in use (55006), or PQ_BUSY.
create function picture_queue._is_transient(p_sqlstate text) returns boolean
language sql immutable set search_path = pg_catalog, pg_temp
as $$ select left(p_sqlstate, 2) in ('40', '53') or p_sqlstate in ('55P03', '55006', 'PT429') $$;

-- Checks deferred constraints of the project at once. An error then fails the step of the job that caused it, and not
-- the whole transaction at its commit. It checks the constraints on our tables. In a transaction of a worker, if the
-- project has a trigger on our tables, it checks those on all tables, since the trigger may write to any table. It does
-- not do so for other callers, whose transaction may have written rows that satisfy a constraint only later. It skips
-- constraints whose names Postgres would refuse or resolve to another constraint.
--
-- The code of a constraint runs with our search_path, and before Postgres 18 as the current role. So it skips whatever
-- could run code of the caller: constraints on tables, foreign keys to tables, and triggers with functions, whose owner
-- does not have all rights of the current role; triggers whose function does not set a search_path that ends with
-- pg_temp, since temporary objects would come first; exclusion constraints, which call functions of an index. A name
-- stands for all constraints of the schema that have it, so one of these is enough to skip it. `set constraints ...
-- immediate` fires each trigger whose state is immediate, and a caller can make a trigger immediate without firing it:
-- so all are deferred before.
create function picture_queue._fire_deferred() returns void
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  v_ours regclass[] := array['public.job_queue'::regclass, 'public.generations'::regclass];
  v_checks_all boolean := current_setting('picture_queue.is_worker', true) = 'true' and exists (
    select from pg_catalog.pg_trigger t
    where t.tgrelid = any (v_ours) and not t.tgisinternal and t.tgname <> 'job_queue_updated_at');
  v_names text := (
    select string_agg(format('%s.%I', d.connamespace::regnamespace, d.conname), ', ')
    from (select distinct c.connamespace, c.conname from pg_catalog.pg_constraint c where c.condeferred) d
    cross join lateral (
      select bool_or(o.conrelid = any (v_ours) or t.tgrelid = any (v_ours)) as is_ours,
        bool_and(o.condeferred and pg_has_role(r.relowner, current_user, 'member')
          and (o.confrelid = 0 or pg_has_role(k.relowner, current_user, 'member'))
          and coalesce(pg_has_role(p.proowner, current_user, 'member'), true)
          and (o.contype in ('f', 'p', 'u') or o.contype = 't' and picture_queue._sets_safe_path(p.proconfig))) as is_safe
      from pg_catalog.pg_constraint o
      left join pg_catalog.pg_class r on r.oid = o.conrelid
      left join pg_catalog.pg_class k on k.oid = o.confrelid
      left join pg_catalog.pg_trigger t on t.tgconstraint = o.oid
      left join pg_catalog.pg_proc p on p.oid = t.tgfoid
      where o.conname = d.conname and o.connamespace = d.connamespace) o
    where o.is_safe and (o.is_ours or v_checks_all)
      and has_schema_privilege(d.connamespace, 'usage') and not pg_is_other_temp_schema(d.connamespace));
  v_check text := 'set constraints ' || v_names || ' immediate';
  v_defer text := 'set constraints ' || v_names || ' deferred';
begin
  if v_names is not null then
    set constraints all deferred;
    execute v_check;
    execute v_defer;
  end if;
end
$$;

-- Returns whether a function with these settings finds no temporary object of its caller before others: its search_path
-- ends with pg_temp. Without pg_temp, Postgres searches temporary tables and types first.
create function picture_queue._sets_safe_path(p_settings text[]) returns boolean
language plpgsql immutable set search_path = pg_catalog, pg_temp
as $$ begin return coalesce(p_settings::text ~ 'search_path=[^=]*, *pg_temp"', false); end $$;

-- Runs the step of this kind for these subjects, for up to p_limit of their jobs where the step takes a limit. Returns
-- the number processed.
create function picture_queue._do_step(p_kind text, p_subjects text[], p_limit integer) returns integer
language plpgsql set search_path = pg_catalog, pg_temp
as $$
begin
  return case p_kind
    when 'resolve' then picture_queue._resolve_dependents(p_subjects::uuid[])
    when 'parent' then picture_queue._resolve_parents(p_subjects::bigint[], p_limit)
    when 'child' then picture_queue._resolve_new_dependents(p_subjects::bigint[])
    when 'batch' then picture_queue._count_batches(p_subjects::uuid[])
    when 'settlement' then picture_queue._settle_later(p_subjects::bigint[])
    when 'account' then picture_queue._update_accounts(p_subjects)
    when 'callback' then picture_queue._enqueue_callbacks(p_subjects::uuid[], p_limit)
    when 'key' then picture_queue._unblock_keys(p_subjects)
    when 'rule' then picture_queue._count_running(p_subjects, p_limit)
    when 'prune' then picture_queue._prune_jobs(p_subjects::uuid[])
    when 'table' then picture_queue._delete_old_rows(p_subjects, p_limit)
    when 'partition' then picture_queue._drop_partitions(p_subjects)
    when 'aggregate' then picture_queue._aggregate_depth(p_limit)
    when 'renumber' then picture_queue._renumber_jobs(p_subjects::uuid[])
    when 'reorder' then picture_queue._reorder_queues(p_subjects, p_limit)
    when 'cancel' then picture_queue._cancel_jobs(p_subjects::uuid[])
    when 'retry' then picture_queue._retry_jobs(p_subjects::uuid[])
    when 'delete_generation' then picture_queue._delete_generations(p_subjects::uuid[])
    when 'delete_files' then picture_queue._enqueue_deletions(p_subjects::uuid[])
    when 'remove_generation' then picture_queue._remove_generations(p_subjects::uuid[])
    when 'discard' then picture_queue._discard_jobs(p_subjects::uuid[])
    when 'event' then picture_queue._wake_parked(p_subjects)
    when 'schedule' then picture_queue._run_due_schedules(p_subjects, p_limit)
    else picture_queue._move_jobs(p_kind, p_subjects::uuid[])
  end;
end
$$;

-- Returns whether isolated steps have used up their time: the deadline of the round of maintenance, or two seconds of a
-- statement in which a step has failed. If a table is locked, each half of a split list would wait for the lock again.
create function picture_queue._is_out_of_time() returns boolean
language sql volatile set search_path = pg_catalog, pg_temp
as $$
  select coalesce(clock_timestamp() > nullif(current_setting('picture_queue.deadline', true), '')::timestamptz, false)
    or coalesce(current_setting('picture_queue.failed_in', true) = statement_timestamp()::text, false)
      and clock_timestamp() > statement_timestamp() + interval '2 seconds'
$$;

-- Runs a step for up to 1,000 subjects at once, since their rows are held in memory. A longer list, and a list for
-- which the step fails, is split in half, down to the one subject that fails. That subject is written to failed_step,
-- and callers skip it until its retry_at. All others are processed while there is time (_is_out_of_time). Returns the
-- number of subjects processed.
create function picture_queue._isolate(p_kind text, p_subjects text[], p_limit integer) returns integer
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  v_count integer := coalesce(cardinality(p_subjects), 0);
  v_done integer;
  v_error text;
  v_detail text;
begin
  if v_count = 0 or picture_queue._is_out_of_time() then
    return 0;
  end if;
  if v_count <= 1000 then
    begin
      v_done := picture_queue._do_step(p_kind, p_subjects, p_limit);
      perform picture_queue._fire_deferred();
      delete from picture_queue.failed_step f where f.ctid = any (array(
        select o.ctid from picture_queue.failed_step o where o.kind = p_kind and o.subject = any (p_subjects) for update skip locked));
      return v_done;
    exception when others then
      get stacked diagnostics v_detail = pg_exception_detail;
      v_error := concat_ws(': ', sqlerrm, nullif(v_detail, ''));
      perform set_config('picture_queue.failed_in', statement_timestamp()::text, true);
    end;
  end if;
  if v_count = 1 then
    perform picture_queue._record_failure(p_kind, p_subjects[1], v_error);
    return 0;
  end if;
  return picture_queue._isolate(p_kind, p_subjects[:v_count / 2], p_limit)
    + picture_queue._isolate(p_kind, p_subjects[v_count / 2 + 1:], p_limit);
end
$$;

-- Records that a step failed for a subject. It is retried after 2, 4, 8, … seconds, at most an hour.
create function picture_queue._record_failure(p_kind text, p_subject text, p_error text) returns void
language plpgsql set search_path = pg_catalog, pg_temp set lock_timeout = '10ms'
as $$
begin
  insert into picture_queue.failed_step as f (kind, subject, last_error, first_at, retry_at)
  values (p_kind, p_subject, left(p_error, 1000), picture_queue._now(), picture_queue._now() + interval '2 seconds')
  on conflict (kind, subject) do update set failures = f.failures + 1, last_error = excluded.last_error,
    retry_at = picture_queue._now() + make_interval(secs => least(2 ^ least(f.failures + 1, 12), 3600));
exception when lock_not_available or deadlock_detected then
  null;  -- another transaction is recording it
end
$$;

-- Returns the subjects for which a step of this kind failed and which are skipped until their retry_at.
create function picture_queue._failed_subjects(p_kind text) returns setof text
language plpgsql stable rows 10 set search_path = pg_catalog, pg_temp set seq_page_cost = 100
as $$
begin
  return query
  select f.subject from picture_queue.failed_step f where f.kind = p_kind and f.retry_at > picture_queue._now();
end
$$;

-- Wakes the worker that holds the maintenance lease if work is due before its next round. The message only wakes it;
-- the worker finds the due work in the tables.
create function picture_queue._wake_maintenance(p_at timestamptz) returns void
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  v_queues text[] := (
    select w.queues from picture_queue.maintenance m
    join picture_queue.worker w on w.name = m.worker
    where m.next_round_at > p_at + interval '50 milliseconds');
begin
  if v_queues <> '{}' then
    perform picture_queue._wake(v_queues[:1], 'maintain');
  end if;
end
$$;
