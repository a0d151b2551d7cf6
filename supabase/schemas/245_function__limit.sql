-- Limits, exact however many workers there are. Only claims decide: a claim locks the keys it needs,
-- counts what runs under them in a later statement (an earlier snapshot would race), and takes what
-- fits. What does not fit is put aside (hold blocked), so that no claim wades through it again.
-- Whoever ends a job appends the key to freed_key, and the next claim lets waiting jobs through.

-- The keys a job runs under.
create function picture_queue._keys(p_queue text, p_job_type text, p_user_id uuid, p_limit_keys text[]) returns text[]
language sql immutable set search_path = ''
as $$
  select array['global', 'queue:' || p_queue, 'type:' || p_job_type]
    || case when p_user_id is not null then array['user:' || p_user_id] end
    || p_limit_keys
$$;

-- What holds for a key, its own rule or that of its kind, and until when it is paused; no row where
-- nothing does.
create function picture_queue._rule(p_key text)
returns table (max_running integer, rate integer, period_seconds real, paused_until timestamptz)
language sql stable set search_path = ''
as $$
  select r.max_running, r.rate, r.period_seconds, k.paused_until
  from (select p_key) as asked (key)
  left join lateral (
    select * from picture_queue.limit_rule l
    where l.key = p_key or l.key = split_part(p_key, ':', 1) || ':*'
    order by l.key = p_key desc limit 1
  ) r on true
  left join picture_queue.limit_key k on k.key = p_key and k.paused_until > picture_queue._now()
  where r.key is not null or k.key is not null
$$;

-- How many more jobs may start under a key now; null: any number.
create function picture_queue._room(p_key text) returns integer
language sql volatile set search_path = ''
as $$
  select case when r.paused_until is not null then 0 else least(
    r.max_running - (select count(*) from picture_queue.slot s where s.key = p_key),
    r.rate - (select count(*) from picture_queue.start s
      where s.key = p_key and s.at > picture_queue._now() - make_interval(secs => r.period_seconds))) end::integer
  from picture_queue._rule(p_key) r
$$;

-- When somebody should look at a key again that let nobody through: when its pause ends or its rate
-- permits one more start. A full one is looked at by whoever claims after a slot came free; the ten
-- seconds are for what was let through and then not claimed.
create function picture_queue._look_again_at(p_key text) returns timestamptz
language sql volatile set search_path = ''
as $$
  select coalesce(
    r.paused_until,
    (select s.at + make_interval(secs => r.period_seconds) from picture_queue.start s
      where s.key = p_key and s.at > picture_queue._now() - make_interval(secs => r.period_seconds)
      order by s.at desc offset r.rate - 1 limit 1),
    picture_queue._now() + interval '10 seconds')
  from picture_queue._rule(p_key) r
$$;

-- Locks keys until the transaction ends and returns those it got. The first call of a transaction
-- waits, in one order for all; a later one takes only what is free, so that claims never wait for
-- each other in a circle.
create function picture_queue._lock_keys(p_keys text[]) returns text[]
language plpgsql set search_path = ''
as $$
begin
  if current_setting('picture_queue.holds_keys', true) = 'yes' then
    return array(
      select k from unnest(p_keys) k
      where pg_catalog.pg_try_advisory_xact_lock(1903326068, pg_catalog.hashtext(k)));
  end if;
  perform pg_catalog.set_config('picture_queue.holds_keys', 'yes', true);
  perform pg_catalog.pg_advisory_xact_lock(1903326068, h.hash)
  from (select distinct pg_catalog.hashtext(k) as hash from unnest(p_keys) k order by hash offset 0) h;
  return p_keys;
end
$$;

-- The keys of these candidates that something holds for.
create function picture_queue._limited_keys(p_candidates picture_queue.candidate[]) returns text[]
language sql stable set search_path = ''
as $$
  select coalesce(array_agg(k.key), '{}')
  from (
    select distinct unnest(picture_queue._keys(c.queue, c.job_type, c.user_id, c.limit_keys)) as key
    from unnest(p_candidates) c
  ) k
  where exists (select from picture_queue._rule(k.key))
$$;

-- Lets jobs through whose key has room again: those of keys freed since, and of keys to look at now.
-- What was let through less than ten seconds ago and is not claimed yet counts as running. Locks the
-- keys of the claim's candidates as well, since only the first locking of a transaction waits. Returns
-- whether there are jobs to look at that were not among the candidates.
create function picture_queue._unblock(p_limit integer, p_candidates picture_queue.candidate[]) returns boolean
language plpgsql set search_path = ''
as $$
declare
  v_now timestamptz := picture_queue._now();
  v_keys text[];
  v_locked text[];
  v_changes picture_queue.change[];
  v_queues text[];
begin
  with freed as (
    delete from picture_queue.freed_key f
    where f.ctid = any (array(select o.ctid from picture_queue.freed_key o limit p_limit for update skip locked))
    returning f.key
  )
  select array_agg(k.key) into v_keys from (
    select f.key from freed f
    union
    (select l.key from picture_queue.limit_key l where l.due_at <= v_now order by l.due_at limit p_limit)
  ) k;
  if v_keys is null then
    return false;
  end if;
  v_locked := picture_queue._lock_keys(v_keys || picture_queue._limited_keys(p_candidates));
  -- What somebody else has locked just now is for the next claim.
  insert into picture_queue.freed_key (key) select k from unnest(v_keys) k where k <> all (v_locked);
  v_locked := array(select k from unnest(v_keys) k where k = any (v_locked));

  select array_agg(picture_queue._change(d.id, 'unblock')) into v_changes
  from unnest(v_locked) k
  cross join lateral (
    select j.id from public.job_queue j
    where j.status = 'pending' and j.blocked_on = k and j.hold = 'blocked'
    order by j.rank, j.turn, j.seq
    limit greatest(0, coalesce(picture_queue._room(k), 1000) - (
      select count(*) from public.job_queue c
      where c.status = 'pending' and c.blocked_on = k and c.hold is null
        and c.updated_at > v_now - interval '10 seconds'))
    for update skip locked
  ) d;
  if v_changes is not null then
    select array_agg(distinct t.queue) into v_queues from picture_queue._transition(v_changes) t;
    perform picture_queue._wake(v_queues, 'enqueue');
  end if;
  perform picture_queue._note_waiting(v_locked);
  return v_changes is not null;
end
$$;

-- Notes of locked keys whether jobs wait for them, and when to look again.
create function picture_queue._note_waiting(p_keys text[]) returns void
language plpgsql set search_path = ''
as $$
declare
  v_waiting text[] := array(
    select k from unnest(p_keys) k where exists (
      select from public.job_queue j where j.status = 'pending' and j.blocked_on = k and j.hold = 'blocked'));
begin
  insert into picture_queue.limit_key as l (key, due_at)
  select k, coalesce(picture_queue._look_again_at(k), picture_queue._now()) from unnest(v_waiting) k order by k
  on conflict (key) do update set due_at = excluded.due_at where l.due_at is distinct from excluded.due_at;
  update picture_queue.limit_key l set due_at = l.paused_until
  where l.key = any (p_keys) and l.key <> all (v_waiting) and l.paused_until > picture_queue._now()
    and l.due_at is distinct from l.paused_until;
  delete from picture_queue.limit_key l
  where l.key = any (p_keys) and l.key <> all (v_waiting)
    and coalesce(l.paused_until, '-infinity') <= picture_queue._now();
end
$$;

-- What a claim makes of its candidates, in their order: up to p_max_jobs are claimed, those over a
-- limit blocked, the expired abandoned, and those whose keys another claim has locked left alone.
create function picture_queue._admit(
  p_candidates picture_queue.candidate[], p_max_jobs integer, p_claim picture_queue.change)
returns picture_queue.change[]
language plpgsql set search_path = ''
as $$
declare
  v_room jsonb;  -- of each limited key that we locked; null: any number
  v_busy text[];
  v_candidate picture_queue.candidate;
  v_change picture_queue.change;
  v_changes picture_queue.change[] := '{}';
  v_keys text[];
  v_full text;
  v_left integer := p_max_jobs;
begin
  v_busy := picture_queue._limited_keys(p_candidates);
  v_keys := picture_queue._lock_keys(v_busy);
  v_busy := array(select k from unnest(v_busy) k where k <> all (v_keys));
  select coalesce(jsonb_object_agg(k, picture_queue._room(k)), '{}') into v_room from unnest(v_keys) k;

  foreach v_candidate in array p_candidates loop
    exit when v_left = 0;
    if v_candidate.expired then
      v_changes := v_changes || picture_queue._change(v_candidate.id, 'abandon', 'It was not started before it expired.');
      continue;
    end if;
    v_keys := picture_queue._keys(
      v_candidate.queue, v_candidate.job_type, v_candidate.user_id, v_candidate.limit_keys);
    continue when v_keys && v_busy;
    v_keys := array(select distinct k from unnest(v_keys) k where v_room ? k);
    v_full := (select min(k) from unnest(v_keys) k where (v_room ->> k)::integer <= 0);
    if v_full is not null then
      v_changes := v_changes || picture_queue._change(v_candidate.id, 'block', null, null, v_full);
    else
      v_change := p_claim;
      v_change.job_id := v_candidate.id;
      v_change.lease_seconds := case when p_claim.lease_is_legacy then p_claim.lease_seconds
        else coalesce(v_candidate.lease_seconds, p_claim.lease_seconds) end;
      v_change.slots := nullif(v_keys, '{}');
      v_changes := v_changes || v_change;
      v_left := v_left - 1;
      v_room := v_room || coalesce(
        (select jsonb_object_agg(k, (v_room ->> k)::integer - 1) from unnest(v_keys) k), '{}');
    end if;
  end loop;
  return v_changes;
end
$$;

-- Takes the slots of claimed jobs, counts their starts, and notes which keys jobs wait for now.
create function picture_queue._take_slots(p_changes picture_queue.change[]) returns void
language plpgsql set search_path = ''
as $$
declare
  v_now timestamptz := picture_queue._now();
begin
  insert into picture_queue.slot (key, job_id)
  select unnest(c.slots), c.job_id from unnest(p_changes) c where c.slots is not null
  on conflict do nothing;
  insert into picture_queue.start (key, at)
  select k, v_now
  from (select unnest(c.slots) as k from unnest(p_changes) c where c.slots is not null) s
  where (select r.rate from picture_queue._rule(s.k) r) is not null;
  perform picture_queue._note_waiting(array(select distinct c.key from unnest(p_changes) c where c.action = 'block'));
end
$$;
