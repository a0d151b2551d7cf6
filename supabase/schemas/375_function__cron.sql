-- A parsed cron expression, in the syntax of Vixie cron (crontab(5)): minute, hour, day of month, month, day of week.
-- A field may have lists, ranges and steps; months and weekdays may have names. Both 0 and 7 are Sunday. The arrays
-- hold the matching numbers, ascending.
--
-- is_fixed: neither the minute nor the hour field begins with a star, so the expression names times of the day. If
-- daylight saving skips such a time, the schedule runs at the moment of the change; if such a time occurs twice, the
-- schedule runs once, at the first. Other expressions, such as */15, run at each matching minute of the local clock.
-- is_either: neither day field begins with a star, so a day matches if it matches at least one of the two fields.
create type picture_queue.cron as (
  minutes integer[],
  hours integer[],
  days integer[],
  months integer[],
  weekdays integer[],
  is_fixed boolean,
  is_either boolean
);

-- Returns the numbers that one field of an expression matches, ascending. p_names: the names of the numbers, beginning
-- with p_low.
create function picture_queue._cron_field(
  p_field text, p_text text, p_low integer, p_high integer, p_names text[] default '{}')
returns integer[]
language plpgsql immutable set search_path = pg_catalog, pg_temp
as $$
declare
  v_part text;
  v_captures text[];
  v_range_ends integer[];
  v_step integer;
  v_numbers integer[] := array[]::integer[];
  v_problem text;
begin
  foreach v_part in array string_to_array(p_text, ',') loop
    v_captures := regexp_match(v_part, '^(?:[*]|([0-9]{1,4}|[a-z]{3})(?:-([0-9]{1,4}|[a-z]{3}))?)(?:/([0-9]{1,4}))?$');
    select array_agg(case when w ~ '[0-9]' then w::integer else p_low - 1 + array_position(p_names, w) end order by i)
    into v_range_ends
    from unnest(v_captures[1:2]) with ordinality as e (w, i);
    v_step := coalesce(v_captures[3], '1')::integer;
    v_problem := case
      when v_captures is null then 'is not a number, range or step'
      when (v_captures[1] is not null and v_range_ends[1] is null) or (v_captures[2] is not null and v_range_ends[2] is null)
        then 'is not a known name'
      when least(v_range_ends[1], v_range_ends[2]) < p_low or greatest(v_range_ends[1], v_range_ends[2]) > p_high
        then format('is not within %s to %s', p_low, p_high)
      when v_range_ends[1] > v_range_ends[2] then 'ends before it begins'
      when v_step not between 1 and p_high then format('has a step that is not within 1 to %s', p_high)
    end;
    if v_problem is not null then
      perform picture_queue._raise_error('PQ_INVALID_CRON', format('%s is "%s", which %s', p_field, v_part, v_problem),
        'a field is * or a list of numbers and ranges, with a step if wanted, such as */15, 1-5,10 or fri-7; '
        || 'use every_seconds for other intervals');
    end if;
    v_numbers := v_numbers || array(select generate_series(
      coalesce(v_range_ends[1], p_low),
      case when v_range_ends[1] is null or (v_range_ends[2] is null and v_captures[3] is not null) then p_high
        else coalesce(v_range_ends[2], v_range_ends[1]) end,
      v_step));
  end loop;
  return array(select distinct n from unnest(v_numbers) n order by n);
end
$$;

-- Parses a cron expression; raises an error if it is invalid.
create function picture_queue._cron_fields(p_cron text) returns picture_queue.cron
language plpgsql immutable set search_path = pg_catalog, pg_temp
as $$
declare
  v_text text := lower(btrim(p_cron, E' \t\n'));
  v_fields text[];
  v_cron picture_queue.cron;
begin
  v_text := coalesce('{
    "@hourly": "0 * * * *", "@daily": "0 0 * * *", "@midnight": "0 0 * * *", "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *", "@yearly": "0 0 1 1 *", "@annually": "0 0 1 1 *"
  }'::jsonb ->> v_text, v_text);
  v_fields := regexp_split_to_array(v_text, '[[:space:]]+');
  if length(v_text) > 500 or cardinality(v_fields) is distinct from 5 then
    perform picture_queue._raise_error('PQ_INVALID_CRON',
      format('cron is "%s", which has %s fields, not 5', left(p_cron, 100), coalesce(cardinality(v_fields), 0)),
      'write minute, hour, day of month, month, day of week, such as 30 9 * * mon-fri; or @hourly, @daily, @weekly, '
      || '@monthly, @yearly');
  end if;
  v_cron.minutes := picture_queue._cron_field('minute', v_fields[1], 0, 59);
  v_cron.hours := picture_queue._cron_field('hour', v_fields[2], 0, 23);
  v_cron.days := picture_queue._cron_field('day of month', v_fields[3], 1, 31);
  v_cron.months := picture_queue._cron_field('month', v_fields[4], 1, 12,
    '{jan,feb,mar,apr,may,jun,jul,aug,sep,oct,nov,dec}');
  v_cron.weekdays := picture_queue._cron_field('day of week', v_fields[5], 0, 7, '{sun,mon,tue,wed,thu,fri,sat}');
  if v_cron.weekdays @> '{7}' then
    v_cron.weekdays := 0 || v_cron.weekdays;
  end if;
  v_cron.is_fixed := left(v_fields[1], 1) <> '*' and left(v_fields[2], 1) <> '*';
  v_cron.is_either := left(v_fields[3], 1) <> '*' and left(v_fields[5], 1) <> '*';
  return v_cron;
end
$$;

-- Returns the next run of an expression in a time zone after p_after; null if there is none within eight years. On a
-- day on which the UTC offset changes, each local time is computed with the offset before and with the offset after
-- the change. The local clock shows such a time once, twice (if the clock is set back) or never (if it is set
-- forward).
create function picture_queue._cron_next(p_cron text, p_timezone text, p_after timestamptz) returns timestamptz
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
  v_cron picture_queue.cron := picture_queue._cron_fields(p_cron);
  v_local_after timestamp := p_after at time zone p_timezone;
  v_day date;
  v_minute integer;
  v_moment_before timestamptz;  -- a moment before the day, and one after it
  v_moment_after timestamptz;
  v_old_offset interval;  -- the UTC offset at these moments
  v_new_offset interval;
  v_next timestamptz;
begin
  -- Begin a day earlier, since the clock may be set back past midnight.
  for v_day_offset in -1..(v_local_after + interval '8 years')::date - v_local_after::date loop
    v_day := v_local_after::date + v_day_offset;
    continue when extract(month from v_day)::integer <> all (v_cron.months) or not case when v_cron.is_either
      then extract(day from v_day)::integer = any (v_cron.days) or extract(dow from v_day)::integer = any (v_cron.weekdays)
      else extract(day from v_day)::integer = any (v_cron.days) and extract(dow from v_day)::integer = any (v_cron.weekdays)
      end;
    v_moment_before := (v_day::timestamp at time zone p_timezone) - interval '2 hours';
    v_moment_after := ((v_day + 1)::timestamp at time zone p_timezone) + interval '2 hours';
    v_old_offset := (v_moment_before at time zone p_timezone) - (v_moment_before at time zone 'UTC');
    v_new_offset := (v_moment_after at time zone p_timezone) - (v_moment_after at time zone 'UTC');
    if v_old_offset = v_new_offset then
      v_minute := floor(extract(epoch from v_local_after - v_day) / 60);
      select (v_day + make_interval(mins => min(h * 60 + m)) - v_old_offset) at time zone 'UTC' into v_next
      from unnest(v_cron.hours) h cross join unnest(v_cron.minutes) m where h * 60 + m > v_minute;
    else
      select min(c.at) into v_next
      from unnest(v_cron.hours) h
      cross join unnest(v_cron.minutes) m
      cross join lateral (select v_day + make_interval(mins => h * 60 + m) as local) t
      cross join lateral (
        select (t.local - v_old_offset) at time zone 'UTC' as old_at, (t.local - v_new_offset) at time zone 'UTC' as new_at) u
      cross join lateral (
        select u.old_at at time zone p_timezone = t.local as is_old, u.new_at at time zone p_timezone = t.local as is_new) k
      cross join lateral unnest(array[
        case when k.is_old then u.old_at end,
        case when k.is_new and not (v_cron.is_fixed and k.is_old) then u.new_at end,
        -- The clock skips this time, so the schedule runs at the moment of the change.
        case when v_cron.is_fixed and not (k.is_old or k.is_new) then (
          select min(g) from generate_series(u.new_at, u.old_at, interval '1 minute') g
          where (g at time zone p_timezone) - (g at time zone 'UTC') = v_new_offset) end]) as c (at)
      where c.at > p_after;
    end if;
    if v_next is not null then
      return v_next;
    end if;
  end loop;
  return null;
end
$$;
