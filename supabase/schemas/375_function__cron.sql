-- A parsed cron expression, in the syntax of Vixie cron (crontab(5)): minute, hour, day of month, month, day of week;
-- each with names, lists, ranges and steps. Both 0 and 7 are Sunday. The arrays hold the matching numbers, ascending.
--
-- is_fixed: neither the minute nor the hour field begins with a star, so the expression names times of the day. When
-- daylight saving skips such a time, it runs at the moment of the change; when the time occurs twice, it runs once, at
-- the first. Other expressions, such as */15, run at each matching minute of the local clock.
-- is_either: neither day field begins with a star, so a day matches if either of the two fields does.
create type picture_queue.cron as (
  minutes integer[],
  hours integer[],
  days integer[],
  months integer[],
  weekdays integer[],
  is_fixed boolean,
  is_either boolean
);

-- Returns the numbers that one field of an expression matches, ascending. p_names: names of the numbers from p_low on.
create function picture_queue._cron_field(
  p_field text, p_text text, p_low integer, p_high integer, p_names text[] default '{}')
returns integer[]
language plpgsql immutable set search_path = pg_catalog, pg_temp
as $$
declare
  v_part text;
  v_captures text[];
  v_ends integer[];
  v_step integer;
  v_numbers integer[] := array[]::integer[];
  v_problem text;
begin
  foreach v_part in array string_to_array(p_text, ',') loop
    v_captures := regexp_match(v_part, '^(?:[*]|([0-9]{1,4}|[a-z]{3})(?:-([0-9]{1,4}|[a-z]{3}))?)(?:/([0-9]{1,4}))?$');
    select array_agg(case when w ~ '[0-9]' then w::integer else p_low - 1 + array_position(p_names, w) end order by i)
    into v_ends
    from unnest(v_captures[1:2]) with ordinality as e (w, i);
    v_step := coalesce(v_captures[3], '1')::integer;
    v_problem := case
      when v_captures is null then 'is not a number, range or step'
      when (v_captures[1] is not null and v_ends[1] is null) or (v_captures[2] is not null and v_ends[2] is null)
        then 'is not a known name'
      when least(v_ends[1], v_ends[2]) < p_low or greatest(v_ends[1], v_ends[2]) > p_high
        then format('is not within %s to %s', p_low, p_high)
      when v_ends[1] > v_ends[2] then 'ends before it begins'
      when v_step not between 1 and p_high then format('has a step that is not within 1 to %s', p_high)
    end;
    if v_problem is not null then
      perform picture_queue._refuse('PQ_INVALID_CRON', format('%s is "%s", which %s', p_field, v_part, v_problem),
        'a field is * or a list of numbers and ranges, with a step if wanted, such as */15, 1-5,10 or fri-7; '
        || 'for other rhythms there is every_seconds');
    end if;
    v_numbers := v_numbers || array(select generate_series(
      coalesce(v_ends[1], p_low),
      case when v_ends[1] is null or (v_ends[2] is null and v_captures[3] is not null) then p_high
        else coalesce(v_ends[2], v_ends[1]) end,
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
    perform picture_queue._refuse('PQ_INVALID_CRON',
      format('cron is "%s", which has %s fields, not 5', left(p_cron, 100), coalesce(cardinality(v_fields), 0)),
      'minute, hour, day of month, month, day of week, such as 30 9 * * mon-fri; or @hourly, @daily, @weekly, '
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

-- Returns the first matching day on or after p_from; null if there is none within eight years (30 February).
create function picture_queue._cron_day(p_cron picture_queue.cron, p_from date) returns date
language plpgsql immutable set search_path = pg_catalog, pg_temp
as $$
declare
  v_from date := p_from;
  v_end date := date_trunc('month', p_from);
  v_day integer;
  v_weekday integer;
  v_found date;
begin
  for v_month in 0..96 loop
    v_end := v_end + interval '1 month';
    if extract(month from v_from)::integer = any (p_cron.months) then
      v_day := extract(day from v_from);
      v_weekday := extract(dow from v_from);
      select v_from + min(i) into v_found
      from generate_series(0, v_end - v_from - 1) i
      where case when p_cron.is_either
        then v_day + i = any (p_cron.days) or (v_weekday + i) % 7 = any (p_cron.weekdays)
        else v_day + i = any (p_cron.days) and (v_weekday + i) % 7 = any (p_cron.weekdays)
      end;
      if v_found is not null then
        return v_found;
      end if;
    end if;
    v_from := v_end;
  end loop;
  return null;
end
$$;

-- Returns the first matching local time after p_after. It ignores daylight saving.
create function picture_queue._cron_clock(p_cron picture_queue.cron, p_after timestamp) returns timestamp
language plpgsql immutable set search_path = pg_catalog, pg_temp
as $$
declare
  v_day date := picture_queue._cron_day(p_cron, p_after::date);
  v_hour integer := extract(hour from p_after);
  v_minute integer;
begin
  if v_day = p_after::date then
    if v_hour = any (p_cron.hours) then
      select min(m) into v_minute from unnest(p_cron.minutes) m where m > extract(minute from p_after);
    end if;
    if v_minute is null then
      v_minute := p_cron.minutes[1];
      select min(h) into v_hour from unnest(p_cron.hours) h where h > extract(hour from p_after);
    end if;
    if v_hour is not null then
      return v_day + make_time(v_hour, v_minute, 0);
    end if;
    v_day := picture_queue._cron_day(p_cron, v_day + 1);
  end if;
  return v_day + make_time(p_cron.hours[1], p_cron.minutes[1], 0);
end
$$;

-- Returns when the UTC offset of a time zone changes after p_from and up to p_to, found by bisection; null if the
-- offset is the same at both ends. The ends are less than two days apart, in which there is at most one change.
create function picture_queue._clock_change(p_timezone text, p_from timestamptz, p_to timestamptz)
returns timestamptz
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
  v_offset interval := (p_from at time zone p_timezone) - (p_from at time zone 'UTC');
  v_before timestamptz := p_from;
  v_minutes integer := ceil(extract(epoch from p_to - p_from) / 60);
  v_half integer;
begin
  if v_minutes <= 0 or (p_to at time zone p_timezone) - (p_to at time zone 'UTC') = v_offset then
    return null;
  end if;
  -- The change is within v_minutes after v_before.
  while v_minutes > 1 loop
    v_half := v_minutes / 2;
    if (v_before + make_interval(mins => v_half)) at time zone p_timezone
      - ((v_before + make_interval(mins => v_half)) at time zone 'UTC') = v_offset
    then
      v_before := v_before + make_interval(mins => v_half);
      v_minutes := v_minutes - v_half;
    else
      v_minutes := v_half;
    end if;
  end loop;
  return v_before + interval '1 minute';
end
$$;

-- Returns the next run of an expression in a time zone after p_after; null if there is none within eight years. The
-- search proceeds from one change of the UTC offset to the next: between two changes each local time is one moment.
create function picture_queue._cron_next(p_cron text, p_timezone text, p_after timestamptz) returns timestamptz
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
  v_cron picture_queue.cron := picture_queue._cron_fields(p_cron);
  v_at timestamptz := date_trunc('minute', p_after, 'UTC');
  v_passed timestamp := v_at at time zone p_timezone;  -- local times up to this one are past
  v_last timestamp := v_passed + interval '8 years';
  v_time timestamp;
  v_next timestamptz;
  v_change timestamptz;
begin
  if v_cron.is_fixed then
    -- If the clock was set back in the last 25 hours, local times up to the change come again: they do not run again.
    v_change := picture_queue._clock_change(p_timezone, v_at - interval '25 hours', v_at);
    v_passed := greatest(v_passed, (v_change - interval '1 minute') at time zone p_timezone);
  end if;
  loop
    v_time := picture_queue._cron_clock(v_cron, v_passed);
    exit when v_time is null or v_time > v_last;
    -- Look for a change of the offset in the next 25 hours. If there is none, look in the day before v_time.
    v_change := picture_queue._clock_change(p_timezone, v_at, v_at + interval '25 hours');
    if v_change is null then
      v_at := greatest(v_at, (v_time - interval '25 hours') at time zone p_timezone);
      v_change := picture_queue._clock_change(p_timezone, v_at, v_at + interval '26 hours');
    end if;
    v_next := (v_time - ((v_at at time zone p_timezone) - (v_at at time zone 'UTC'))) at time zone 'UTC';
    if v_change is null or v_next < v_change then
      return v_next;
    elsif v_cron.is_fixed and v_time <= (v_change at time zone p_timezone) then
      return v_change;
    end if;
    v_at := v_change;
    v_passed := greatest(
      (v_change at time zone p_timezone) - interval '1 minute', case when v_cron.is_fixed then v_passed end);
  end loop;
  return null;
end
$$;
