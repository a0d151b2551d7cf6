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

-- Refuses files of Storage that belong to somebody else. It looks at all texts, also those that are no files. Callers
-- without a user (p_user is null) are services, which may name each file.
create function picture_queue._check_file_owner(p_input jsonb, p_user uuid) returns void
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
  v_problem text;
begin
  if p_user is null then
    return;
  end if;
  select format('input.%s is %s, which is not a file of the user', left(e.key, 100), left(u, 200)) into v_problem
  from jsonb_each(p_input) e
  cross join lateral jsonb_array_elements_text(
    case jsonb_typeof(e.value) when 'array' then e.value else jsonb_build_array(e.value) end) u
  where starts_with(u, 'storage:') and split_part(u, '/', 2) is distinct from p_user::text
  order by e.key limit 1;
  if v_problem is not null then
    perform picture_queue._raise_error('PQ_INVALID_INPUT', v_problem,
      'upload the file to the folder of the user in the bucket uploads');
  end if;
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
