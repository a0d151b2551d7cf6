-- Files of Supabase Storage in inputs: storage:uploads/<user id>/<name>, which a user uploaded, and
-- storage:pictures/<user id>/<generation id>/<n>.<extension>, a picture of an earlier generation. The worker replaces
-- them with signed URLs.

-- Returns the problem with an input for a file; null if it is an https:// address or a file of Storage.
create function picture_queue._file_problem(p_file text) returns text
language sql immutable set search_path = pg_catalog, pg_temp
as $$
  select case
    when p_file ~ '^https://[^[:space:]]+$' then null
    when coalesce(length(p_file) > 500, true) or p_file !~ '^storage:(uploads|pictures)(/[A-Za-z0-9_-][A-Za-z0-9_.-]*){2,5}$'
      then 'is neither an https:// address nor storage:uploads/<user id>/<name>'
  end
$$;

-- Returns the texts in an input that begin with a prefix such as storage:, at any depth, and the names of their inputs.
create function picture_queue._input_texts(p_input jsonb, p_prefix text) returns table (input text, value text)
language plpgsql immutable rows 1 set search_path = pg_catalog, pg_temp
as $$
begin
  if position('"' || p_prefix in p_input::text) = 0 then  -- almost always
    return;
  end if;
  return query
  select e.key, t.value #>> '{}'
  from jsonb_each(p_input) e
  cross join lateral jsonb_path_query(e.value, 'strict $.** ? (@.type() == "string")') as t (value)
  where starts_with(t.value #>> '{}', p_prefix);
end
$$;

-- Refuses files of Storage that belong to somebody else, or whose path is malformed. It looks at all texts, also those
-- that are no files, since a model may read them as such. Callers without a user (p_user is null) are services, which
-- may name each file.
create function picture_queue._check_file_owner(p_input jsonb, p_user uuid) returns void
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
  v_problem text;
begin
  if p_user is null then
    return;
  end if;
  select format('input.%s is %s, which is not a file of the user', left(t.input, 100), left(t.value, 200))
  into v_problem
  from picture_queue._input_texts(p_input, 'storage:') t
  where split_part(t.value, '/', 2) is distinct from p_user::text or picture_queue._file_problem(t.value) is not null
  order by t.input limit 1;
  if v_problem is not null then
    perform picture_queue._raise_error('PQ_INVALID_INPUT', v_problem,
      'upload the file to the folder of the user in the bucket uploads');
  end if;
end
$$;

-- Returns the inputs whose files of Storage the operator's rules have added: p_sent is the input after the rules. The
-- worker signs them whoever owns them.
create function picture_queue._operator_files(p_given jsonb, p_sent jsonb) returns text[]
language plpgsql immutable set search_path = pg_catalog, pg_temp
as $$
begin
  return array(
    select distinct t.input from picture_queue._input_texts(p_sent, 'storage:') t
    where (p_given -> t.input) is distinct from (p_sent -> t.input) order by t.input);
end
$$;

-- Returns whether the user has fewer uploaded files than max_user_uploads. The policy of the bucket calls it.
create function picture_queue.may_upload() returns boolean
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
declare
  v_user text := picture_queue._caller_id();
  v_limit integer := (select s.max_user_uploads from picture_queue.setting s);
begin
  if picture_queue._find_table('storage.objects', true) is null then
    return false;
  end if;
  return (
    select count(*) < v_limit
    from (
      select from storage.objects o
      -- 0 is the character after the slash.
      where o.bucket_id = 'uploads' and o.name collate "C" >= v_user || '/' and o.name collate "C" < v_user || '0'
      limit v_limit
    ) f);
end
$$;
comment on function picture_queue.may_upload() is 'Whether the user has fewer uploaded files than max_user_uploads.';
