-- Steps that process many subjects, such as jobs. If the step fails for one subject, it is still done for the others.

-- Returns whether a retry may succeed: after a deadlock or serialization failure (40), a lack of resources (53), a lock
-- timeout (55P03), an object in use (55006), or PQ_BUSY.
create function picture_queue._is_transient(p_sqlstate text) returns boolean
language sql immutable set search_path = pg_catalog, pg_temp
as $$ select left(p_sqlstate, 2) in ('40', '53') or p_sqlstate in ('55P03', '55006', 'PT429') $$;

-- Checks deferred constraints of the project at once. An error then fails the step of the job that caused it, and not
-- the whole transaction at its commit. The function checks the constraints on our tables. In a transaction of a
-- worker, if the project has a trigger on our tables, it checks the constraints on all tables, since the trigger may
-- write to any table. For other callers it does not: their transaction may have written rows that satisfy a constraint
-- only later. It skips constraints whose names Postgres would refuse or resolve to another constraint.
--
-- The code of a constraint runs with our search_path, and before Postgres 18 as the current role. So the function
-- skips every constraint that could run code of the caller: a constraint if the owner of its table, of the table to
-- which it refers, or of its trigger function does not have all rights of the current role; a trigger whose function
-- does not set a search_path that ends with pg_temp, since temporary objects would come first; an exclusion
-- constraint, which calls functions of an index. A name stands for all constraints of a schema that have this name, so
-- it is skipped if one of them is unsafe. `set constraints ... immediate` also fires triggers that the caller has made
-- immediate without firing them. So all constraints are deferred first.
create function picture_queue._check_deferred_constraints() returns void
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  v_our_tables regclass[] := array['public.job_queue'::regclass, 'public.generations'::regclass];
  v_checks_all boolean := current_setting('picture_queue.is_worker', true) = 'true' and exists (
    select from pg_catalog.pg_trigger t
    where t.tgrelid = any (v_our_tables) and not t.tgisinternal and t.tgname <> 'job_queue_updated_at');
  v_names text := (
    select string_agg(format('%s.%I', names.connamespace::regnamespace, names.conname), ', ')
    from (select distinct c.connamespace, c.conname from pg_catalog.pg_constraint c where c.condeferred) names
    cross join lateral (
      select bool_or(c.conrelid = any (v_our_tables) or t.tgrelid = any (v_our_tables)) as is_ours,
        -- Types: f foreign key, p primary key, u unique, t trigger.
        bool_and(c.condeferred and pg_has_role(constrained.relowner, current_user, 'member')
          and (c.confrelid = 0 or pg_has_role(referenced.relowner, current_user, 'member'))
          and coalesce(pg_has_role(p.proowner, current_user, 'member'), true)
          and (c.contype in ('f', 'p', 'u') or c.contype = 't' and picture_queue._sets_safe_path(p.proconfig))) as is_safe
      from pg_catalog.pg_constraint c
      left join pg_catalog.pg_class constrained on constrained.oid = c.conrelid
      left join pg_catalog.pg_class referenced on referenced.oid = c.confrelid
      left join pg_catalog.pg_trigger t on t.tgconstraint = c.oid
      left join pg_catalog.pg_proc p on p.oid = t.tgfoid
      where c.conname = names.conname and c.connamespace = names.connamespace) checked
    where checked.is_safe and (checked.is_ours or v_checks_all)
      and has_schema_privilege(names.connamespace, 'usage') and not pg_is_other_temp_schema(names.connamespace));
  v_check_statement text := 'set constraints ' || v_names || ' immediate';
  v_defer_statement text := 'set constraints ' || v_names || ' deferred';
begin
  if v_names is not null then
    set constraints all deferred;
    execute v_check_statement;
    execute v_defer_statement;
  end if;
end
$$;

-- Returns whether a function with these settings (proconfig) finds temporary objects of its caller last: its
-- search_path ends with pg_temp. If the path does not contain pg_temp, Postgres searches temporary tables and types
-- first.
create function picture_queue._sets_safe_path(p_settings text[]) returns boolean
language plpgsql immutable set search_path = pg_catalog, pg_temp
as $$ begin return coalesce(p_settings::text ~ 'search_path=[^=]*, *pg_temp"', false); end $$;

-- Runs the step of this kind for these subjects. Some steps process up to p_limit jobs of the subjects. Returns the
-- number of subjects or jobs that the step processed.
create function picture_queue._run_step(p_kind text, p_subjects text[], p_limit integer) returns integer
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
    when 'purge' then picture_queue._cancel_jobs(p_subjects::uuid[], 'The queue was purged.')
    when 'retry' then picture_queue._retry_jobs(p_subjects::uuid[])
    when 'delete_generation' then picture_queue._delete_generations(p_subjects::uuid[])
    when 'delete_files' then picture_queue._enqueue_deletions(p_subjects::uuid[])
    when 'remove_generation' then picture_queue._remove_generations(p_subjects::uuid[])
    when 'discard' then picture_queue._discard_jobs(p_subjects::uuid[])
    when 'event' then picture_queue._wake_parked(p_subjects)
    when 'schedule' then picture_queue._run_due_schedules(p_subjects, p_limit)
    else picture_queue._change_state(p_kind, p_subjects::uuid[])
  end;
end
$$;

-- Returns whether isolated steps have used up their time: the deadline of the round of maintenance has passed, or the
-- statement has run for two seconds and _run_isolated has set failed_in. Without the second bound, each half of a split
-- list would wait again for a locked table.
create function picture_queue._is_out_of_time() returns boolean
language sql volatile set search_path = pg_catalog, pg_temp
as $$
  select coalesce(clock_timestamp() > nullif(current_setting('picture_queue.deadline', true), '')::timestamptz, false)
    or coalesce(current_setting('picture_queue.failed_in', true) = statement_timestamp()::text, false)
      and clock_timestamp() > statement_timestamp() + interval '2 seconds'
$$;

-- Runs a step for up to 1,000 subjects at once, a bound on the memory for their rows. It splits a longer list, and a
-- list for which the step fails, in half, down to the one subject that fails. That subject is written to failed_step,
-- and callers skip it until its retry_at. The others are processed until the time is used up (_is_out_of_time).
-- Returns the number of subjects processed.
create function picture_queue._run_isolated(p_kind text, p_subjects text[], p_limit integer) returns integer
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  v_count integer := coalesce(cardinality(p_subjects), 0);
  v_processed integer;
  v_error text;
  v_detail text;
begin
  if v_count = 0 or picture_queue._is_out_of_time() then
    return 0;
  end if;
  if v_count <= 1000 then
    begin
      v_processed := picture_queue._run_step(p_kind, p_subjects, p_limit);
      perform picture_queue._check_deferred_constraints();
      delete from picture_queue.failed_step f where f.ctid = any (array(
        select o.ctid from picture_queue.failed_step o where o.kind = p_kind and o.subject = any (p_subjects) for update skip locked));
      return v_processed;
    exception when others then
      get stacked diagnostics v_detail = pg_exception_detail;
      v_error := concat_ws(': ', sqlerrm, nullif(v_detail, ''));
      -- The search for the failing subject must go on until that subject is recorded, or each call would repeat it.
      if v_count = 1 or sqlstate in ('55P03', '40P01', 'PT429', 'PT503') then
        perform set_config('picture_queue.failed_in', statement_timestamp()::text, true);
      end if;
    end;
  end if;
  if v_count = 1 then
    perform picture_queue._record_failure(p_kind, p_subjects[1], v_error);
    return 0;
  end if;
  return picture_queue._run_isolated(p_kind, p_subjects[:v_count / 2], p_limit)
    + picture_queue._run_isolated(p_kind, p_subjects[v_count / 2 + 1:], p_limit);
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
  null;  -- another transaction records a failure of this subject
end
$$;

-- Returns the subjects that a step of this kind skips until their retry_at, because it failed for them.
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
    perform picture_queue._wake_workers(v_queues[:1], 'maintain');
  end if;
end
$$;
