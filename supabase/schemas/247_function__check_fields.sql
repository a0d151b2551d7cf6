-- The validators of JSON values and of the fields of objects.

-- Returns the problem with a JSON value of a caller, apart from its type; null if there is none. Every client must be
-- able to read the value: Python refuses integers of over 4,300 digits and about 1,000 levels of nesting, and
-- JavaScript reads a number beyond 1e308 as Infinity.
create function picture_queue._json_problem(p_value jsonb, p_max_bytes integer) returns text
language plpgsql immutable strict set search_path = pg_catalog, pg_temp
as $$
declare
  v_text bytea := convert_to(p_value::text, 'UTF8');
  v_bytes integer := length(v_text);
begin
  if v_bytes > p_max_bytes then
    return format('has %s bytes, the limit is %s', v_bytes, p_max_bytes);
  elsif v_bytes > 200 and jsonb_path_exists(p_value, 'strict $.**{101}') then
    return 'is nested deeper than 100 levels';
  end if;
  -- A number beyond 1e308 has over 300 digits, so one of them is at a multiple of 300 bytes. Examining only these
  -- bytes takes a tenth of the time of reading all numbers.
  for i in 1..v_bytes / 300 loop
    if get_byte(v_text, i * 300 - 1) between 48 and 57 then
      return 'has a number beyond 1e308: ' || left(jsonb_path_query_first(p_value,
        'strict $.** ? (@ > 1e308 || @ < -1e308)')::text, 20) || '...';
    end if;
  end loop;
  return null;
end
$$;

-- Returns the problem with a value under a rule; null if the value fits. A rule is a list: a kind and its bounds.
-- number, integer: minimum, maximum; text: maximum and minimum (default 1) length; name: maximum length, the
-- characters allowed besides letters and digits; list: maximum number and length of entries; uuids: maximum number;
-- choice: the values; object: maximum bytes (optional). Without bounds: uuid, time (from 1970 to 9998), moment (any
-- time), boolean.
create function picture_queue._value_problem(p_value jsonb, p_rule jsonb) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
  v_kind text := p_rule ->> 0;
  v_type text := jsonb_typeof(p_value);
  v_text text := p_value #>> '{}';
  v_shown text := left(p_value::text, 100);
  v_fits boolean;
begin
  -- One statement for each kind: in a single statement the planner would try the casts of other kinds.
  case v_kind
    when 'number' then
      -- A number closer to zero than a real can hold has a text of more than 40 characters.
      return case when v_type <> 'number' or length(v_text) > 40
          or v_text::numeric not between (p_rule ->> 1)::numeric and (p_rule ->> 2)::numeric
        then format('is %s, not %s to %s', v_shown, p_rule ->> 1, p_rule ->> 2) end;
    when 'integer', 'uuid', 'time', 'moment' then
      -- The parser of times ignores punctuation, so it would accept the text of a JSON list.
      if v_kind in ('time', 'moment') and v_type <> 'string' then
        return format('is %s, not text', v_shown);
      end if;
      begin
        v_fits := case v_kind
          when 'integer' then v_text::bigint between (p_rule ->> 1)::bigint and (p_rule ->> 2)::bigint
          when 'uuid' then v_text::uuid is not null
          when 'time' then v_text::timestamptz between '1970-01-01' and '9999-01-01'
          else v_text::timestamptz is not null end;
      exception when data_exception then
        v_fits := false;  -- only a cast can validate the text
      end;
      return case when not v_fits then case v_kind
        when 'integer' then format('is %s, not %s to %s', left(v_text, 100), p_rule ->> 1, p_rule ->> 2)
        when 'uuid' then format('is %s, which is not a uuid', v_shown)
        else format('is %s', left(v_text, 100)) end end;
    when 'name' then
      return case when length(v_text) > (p_rule ->> 1)::integer
          or v_text !~ format('^[A-Za-z0-9][A-Za-z0-9%s]*$', p_rule ->> 2) then format('is %s', v_shown) end;
    when 'choice' then
      return case when v_type <> 'string' or not p_rule - 0 ? v_text then format('is %s, not %s or %s', v_shown,
        array_to_string(array(select jsonb_array_elements_text(p_rule - 0 - -1)), ', '), p_rule ->> -1) end;
    when 'text' then
      return case when v_type <> 'string' then format('is %s, not text', v_shown)
        when length(v_text) not between coalesce((p_rule ->> 2)::integer, 1) and (p_rule ->> 1)::integer
          then format('has %s characters, not %s to %s', length(v_text), coalesce(p_rule ->> 2, '1'), p_rule ->> 1) end;
    when 'list' then
      return case when v_type <> 'array' then format('is %s, not a list', v_shown)
        when jsonb_array_length(p_value) > (p_rule ->> 1)::integer
          then format('has %s entries, at most %s are possible', jsonb_array_length(p_value), p_rule ->> 1)
        else (
          select format('has the entry %s, which %s', left(e::text, 100), problem)
          from jsonb_array_elements(p_value) e
          cross join picture_queue._value_problem(e, jsonb_build_array('text', p_rule -> 2)) problem
          where problem is not null limit 1) end;
    when 'uuids' then
      return coalesce(picture_queue._value_problem(p_value, jsonb_build_array('list', p_rule -> 1, 38)), (
        select format('has %s, which is not a uuid', e) from jsonb_array_elements(p_value) e
        where picture_queue._value_problem(e, '["uuid"]') is not null limit 1));
    when 'boolean' then
      return case when v_type <> 'boolean' then format('is %s, not true or false', v_shown) end;
    else
      return case when v_type <> 'object' then format('is of type %s, not an object', v_type)
        when octet_length(p_value::text) > (p_rule ->> 1)::integer
          then format('has %s bytes, not up to %s', octet_length(p_value::text), p_rule ->> 1) end;
  end case;
end
$$;

-- Returns the problem with the fields of an object; null if there is none. p_rules has a rule for each known field. A
-- JSON null stands for the default of a field.
create function picture_queue._fields_problem(p_path text, p_object jsonb, p_rules jsonb) returns text
language plpgsql stable strict set search_path = pg_catalog, pg_temp
as $$
declare
  v_field record;
  v_problem text;
begin
  if jsonb_typeof(p_object) <> 'object' then
    return format('%s is not an object', coalesce(nullif(rtrim(p_path, '.'), ''), 'changes'));
  end if;
  for v_field in select e.key, e.value, p_rules -> e.key as rule from jsonb_each(p_object) e loop
    v_problem := case when v_field.rule is null then 'is not known'
      when v_field.value <> 'null' then picture_queue._value_problem(v_field.value, v_field.rule) end;
    if v_problem is not null then
      return format('%s%s %s', p_path, left(v_field.key, 100), v_problem);
    end if;
  end loop;
  return null;
end
$$;

-- Refuses an object with an unknown field, or a value that does not fit its rule. It reads no table, so users may
-- execute it. The default rules are for filters of lists that are sorted by name. limit: the rows of a page, 10,000 at
-- most and by default; after: the last name of the previous page.
create function picture_queue._check_fields(
  p_path text, p_object jsonb, p_rules jsonb default '{"limit": ["integer", 1, 10000], "after": ["text", 200]}')
returns void
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
  v_problem text := picture_queue._fields_problem(p_path, p_object, p_rules);
begin
  if v_problem is not null then
    perform picture_queue._raise_error('PQ_INVALID_ARGUMENT', v_problem,
      'known fields are ' || (select string_agg(k, ', ') from jsonb_object_keys(p_rules) k));
  end if;
end
$$;
