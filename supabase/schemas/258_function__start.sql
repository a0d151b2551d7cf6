-- The second and third part of a claim: start the picked jobs under a lease, and read them for the worker.

-- Starts locked jobs under a lease, in the order of the list; if there are limits, only the jobs that _admit permits.
-- Returns the ids of the started jobs. It makes the transition 'claim', as _apply_changes makes the other transitions,
-- but with fewer statements, since each statement adds to the latency of a claim. It writes no history: the row has
-- the worker and the start time.
create function picture_queue._start(p_candidates picture_queue.candidate[], p_claim picture_queue.claim) returns uuid[]
language plpgsql set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan set seq_page_cost = 100
as $$
declare
  v_now timestamptz := picture_queue._now();
  v_candidates picture_queue.candidate[] := case when p_claim.has_limits
    then picture_queue._admit(p_candidates, p_claim.max_jobs) else p_candidates[:p_claim.max_jobs] end;
  v_ids uuid[];
  v_extra_ids uuid[];  -- jobs with a generation or a long history, which need further steps
  v_may_defer boolean;
begin
  with started as (
    update public.job_queue j set
      status = 'processing',
      attempt = j.attempt + 1,
      lease_id = p_claim.lease_id,
      (lease_seconds, lease_expires_at) = (
        select l.seconds, v_now + make_interval(secs => l.seconds)
        from (
          select case when p_claim.is_legacy then p_claim.lease_seconds else coalesce(
            (select t.lease_seconds from picture_queue.job_type t where t.name = j.job_type),
            (select q.lease_seconds from picture_queue.queue q where q.name = j.queue), p_claim.lease_seconds) end as seconds
          offset 0
        ) l),
      lease_is_legacy = p_claim.is_legacy,
      unconfirmed_claims = case when p_claim.confirms_start then least(j.unconfirmed_claims + 1, 100) else 0 end,
      slots = c.keys,
      blocked_on = null,
      -- Uniqueness that does not cover running jobs ends when the job starts.
      unique_states = case when not 'processing' = any (j.unique_states) then '{}' else j.unique_states end,
      worker = p_claim.worker,
      started_at = v_now,
      version = j.version + 1,
      updated_at = v_now
    from unnest(v_candidates) with ordinality as c (id, keys, blocked_on, n)
    where j.id = any (array(select s.id from unnest(v_candidates) s)) and j.id = c.id
    returning j.id, j.queue, j.generation_id, j.version, c.n
  ),
  counted as (
    insert into picture_queue.depth_change (queue, status, hold, n, at)
    select s.queue, e.status, null, e.sign * s.n, v_now
    from (select s.queue, count(*) as n from started s group by s.queue) s
    cross join (values ('pending', -1), ('processing', 1)) as e (status, sign)
  )
  select coalesce(array_agg(s.id order by s.n), '{}'),
    array_agg(s.id) filter (where s.generation_id is not null or s.version > 50),
    -- Whether there may be deferred constraints. The statement that changes the rows also checks this: a transaction
    -- that creates such a constraint waits for the table lock of the statement, so none is missed.
    exists (select from pg_catalog.pg_trigger t
      where t.tgrelid in ('public.job_queue'::regclass, 'public.generations'::regclass)
        and (t.tginitdeferred or not t.tgisinternal and t.tgname <> 'job_queue_updated_at'))
  into v_ids, v_extra_ids, v_may_defer
  from started s;
  if cardinality(v_ids) < cardinality(v_candidates) then
    raise exception 'a trigger on public.job_queue prevented the change of a job';
  elsif v_extra_ids is not null then
    perform picture_queue._trim_history(v_extra_ids), picture_queue._mirror_generations(v_extra_ids);
  end if;
  if v_may_defer then
    perform picture_queue._check_deferred_constraints();
  end if;
  return v_ids;
end
$$;

-- Starts jobs. If the start of all jobs together fails, it starts fewer at a time, down to the job whose start fails;
-- it records that job in failed_step and skips it. After the first 20 milliseconds of failures, each further failure
-- also skips half of the remaining jobs, so that the last jobs of the list are tried as well. The lock_timeout is
-- short, since each try waits again for a locked table.
create function picture_queue._start_isolated(
  p_candidates picture_queue.candidate[], p_claim picture_queue.claim, out ids uuid[], out has_skipped boolean)
language plpgsql set search_path = pg_catalog, pg_temp set lock_timeout = '100ms'
as $$
declare
  v_remaining picture_queue.claim := p_claim;  -- max_jobs: how many more jobs may start
  v_next_index integer := 1;  -- the position of the first job not tried yet
  v_group_size integer := cardinality(p_candidates);  -- the number of jobs to start together
  v_skips_from timestamptz;  -- 20 milliseconds after the first failure
begin
  ids := '{}'::uuid[];
  while v_next_index <= cardinality(p_candidates) and v_remaining.max_jobs > 0 loop
    begin
      ids := ids || picture_queue._start(p_candidates[v_next_index:v_next_index + v_group_size - 1], v_remaining);
      v_remaining.max_jobs := p_claim.max_jobs - cardinality(ids);
      v_next_index := v_next_index + v_group_size;
      v_group_size := v_group_size * 2;
    exception when others then
      if v_group_size = 1 then
        perform picture_queue._record_failure('claim', p_candidates[v_next_index].id::text, sqlerrm);
        v_skips_from := coalesce(v_skips_from, clock_timestamp() + interval '20 milliseconds');
        has_skipped := clock_timestamp() > v_skips_from;
        v_next_index := v_next_index + case when has_skipped then greatest((cardinality(p_candidates) - v_next_index) / 2, 1) else 1 end;
      end if;
      v_group_size := greatest(v_group_size / 10, 1);
    end;
  end loop;
end
$$;

-- Returns the jobs under a lease of a worker, in the form that the worker gets. Optional fields are added only if at
-- least one differs from its default. p_order: the ids in the order in which a claim by weights picked them; null:
-- order by rank, turn, seq.
create function picture_queue._leased_jobs(p_lease_id uuid, p_worker text, p_order uuid[]) returns jsonb
language plpgsql stable set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan
set seq_page_cost = 100
as $$
declare
  v_now timestamptz := picture_queue._now();
begin
  return to_jsonb(array(
    select
      case when num_nonnulls(j.user_id, j.generation_id, j.batch_id, j.tags, j.event, j.message,
          j.cancel_requested_at, j.scheduled_for) = 0 and j.priority = 0 and j.progress = 0 and j.metadata = '{}'
          and not b.confirm_start
        then b.base
        else b.base || jsonb_build_object(
          'priority', j.priority, 'progress', j.progress, 'user_id', j.user_id, 'generation_id', j.generation_id, 'batch_id', j.batch_id,
          'tags', coalesce(to_jsonb(j.tags), '[]'), 'metadata', j.metadata, 'event', j.event, 'message', j.message,
          'cancel_requested_at', j.cancel_requested_at, 'scheduled_for', j.scheduled_for,
          'confirm_start', b.confirm_start) end
    from public.job_queue j
    left join picture_queue.job_type t on t.name = j.job_type
    left join picture_queue.queue q on q.name = j.queue
    cross join lateral (
      select jsonb_build_object(
        'id', j.id, 'queue', j.queue, 'job_type', j.job_type, 'payload', j.payload, 'attempt', j.attempt,
        'max_attempts', j.max_attempts, 'created_at', j.created_at, 'version', j.version, 'lease_id', j.lease_id,
        'lease_seconds', j.lease_seconds, 'timeout_seconds', coalesce(
          j.timeout_seconds, t.timeout_seconds, q.timeout_seconds, (select s.timeout_seconds from picture_queue.setting s))
      ) as base,
      -- The worker must confirm the start before it calls the handler in the last attempt, and after an unconfirmed
      -- claim (unconfirmed_claims counts this claim, too). Otherwise a handler that kills its worker at once would be
      -- run again without a counted attempt.
      j.unconfirmed_claims > 1 or j.unconfirmed_claims = 1 and j.attempt >= j.max_attempts as confirm_start
      offset 0) b
    where j.lease_id = p_lease_id and j.worker = p_worker and j.status = 'processing' and j.hold is null
      and (j.lease_expires_at > v_now or exists (
        select from picture_queue.lease_extension x
        where x.job_id = j.id and x.lease_id = j.lease_id and x.lease_expires_at > v_now))
    order by array_position(p_order, j.id), j.rank, j.turn, j.seq));
end
$$;
