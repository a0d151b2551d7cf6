-- Files of Supabase Storage in inputs: storage:uploads/<user id>/<name>, which a user uploaded, and
-- storage:pictures/<user id>/<generation id>/<n>.<extension>, a picture of an earlier generation. The name of such a
-- picture is also generation:<generation id>/<n> (n is 1 by default), even before the picture exists: a generation with
-- this input waits for the end of the other generation. The worker replaces these names with signed URLs.

-- Returns the generation and the number of the picture that an input names; null if it names none.
create function picture_queue._parse_reference(p_file text, out generation_id uuid, out n integer)
language plpgsql immutable set search_path = pg_catalog, pg_temp
as $$
declare
  v_parts text[] := regexp_match(p_file,
    '^generation:([0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})(?:/([1-9][0-9]{0,3}))?$', 'i');
begin
  generation_id := v_parts[1]::uuid;
  n := case when generation_id is not null then coalesce(v_parts[2]::integer, 1) end;
end
$$;

-- Returns the problem with an input for a file; null if it is an https:// address, a file of Storage or
-- a picture of a generation.
create function picture_queue._file_problem(p_file text) returns text
language sql immutable set search_path = pg_catalog, pg_temp
as $$
  select case
    when p_file ~ '^https://[^[:space:]]+$' then null
    when starts_with(p_file, 'generation:') and (picture_queue._parse_reference(p_file)).n is not null then null
    when coalesce(length(p_file) > 500, true) or p_file !~ '^storage:(uploads|pictures)(/[A-Za-z0-9_-][A-Za-z0-9_.-]*){2,5}$'
      then 'is neither an https:// address nor storage:uploads/<user id>/<name> nor generation:<id>/<n>'
  end
$$;

-- Returns the texts at any depth of the inputs that begin with a prefix such as storage:, each with the name of its
-- input.
create function picture_queue._input_texts(p_input jsonb, p_prefix text) returns table (input text, value text)
language plpgsql immutable rows 1 set search_path = pg_catalog, pg_temp
as $$
begin
  if position('"' || p_prefix in p_input::text) = 0 then  -- a cheap check, which ends most calls here
    return;
  end if;
  return query
  select e.key, t.value #>> '{}'
  from jsonb_each(p_input) e
  cross join lateral jsonb_path_query(e.value, 'strict $.** ? (@.type() == "string")') as t (value)
  where starts_with(t.value #>> '{}', p_prefix);
end
$$;

-- Refuses files of Storage that belong to another user, or whose path is malformed. The check includes all texts, also
-- those of inputs that are not files, since a model may read such a text as a file. Callers without a user (p_user is
-- null) are services, which may name any file.
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

-- Returns the pictures of generations that the inputs name: the name of the input, its text, the generation and the
-- number of the picture. The search includes all texts, also those of inputs that are not files.
create function picture_queue._references(p_input jsonb)
returns table (input text, reference text, generation_id uuid, n integer)
language plpgsql immutable rows 1 set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
begin
  if position('"generation:' in p_input::text) = 0 then  -- a cheap check, which ends most calls here
    return;
  end if;
  return query
  select t.input, t.value, r.generation_id, r.n
  from picture_queue._input_texts(p_input, 'generation:') t
  cross join lateral picture_queue._parse_reference(t.value) r
  where r.generation_id is not null;
end
$$;

-- Returns the unfinished jobs of the generations that an input names. Refuses generations of other users, and those
-- that do not exist. For a service (p_user is null) they may belong to anyone.
create function picture_queue._referenced_jobs(p_input jsonb, p_user uuid) returns uuid[]
language plpgsql stable set search_path = pg_catalog, pg_temp set seq_page_cost = 100
as $$
declare
  v_references jsonb;
  v_problem text;
begin
  select jsonb_agg(to_jsonb(r) order by r.input) into v_references from picture_queue._references(p_input) r;
  if v_references is null then
    return '{}'::uuid[];
  elsif jsonb_array_length(v_references) > 100 then
    v_problem := format('input names %s pictures of generations, at most 100 are possible', jsonb_array_length(v_references));
  else
    select format('input.%s is %s, and %s', left(r.input, 100), r.reference,
      case when p_user is null then 'there is no such generation' else 'the user has no such generation' end) into v_problem
    from jsonb_to_recordset(v_references) as r (input text, reference text, generation_id uuid)
    where not exists (
      select from public.generations g
      where g.id = r.generation_id and not g.deleted and (p_user is null or g.user_id = p_user))
    limit 1;
  end if;
  if v_problem is not null then
    perform picture_queue._raise_error('PQ_INVALID_INPUT', v_problem, 'list_generations() shows the generations of the user');
  end if;
  return array(
    select distinct j.id
    from jsonb_to_recordset(v_references) as r (generation_id uuid)
    join public.generations g on g.id = r.generation_id
    join public.job_queue j on j.id = g.job_id
    where j.finished_at is null order by j.id);
end
$$;

-- Returns, for each picture of a generation that an input names, its path in Storage, which begins with the bucket.
-- Pictures that do not exist, or were deleted, are left out.
create function picture_queue._referenced_paths(p_input jsonb) returns jsonb
language plpgsql stable set search_path = pg_catalog, pg_temp set seq_page_cost = 100
as $$
begin
  return coalesce((
    select jsonb_object_agg(r.reference, 'pictures/' || i.path)
    from picture_queue._references(p_input) r
    join public.images i on i.generation_id = r.generation_id and i.n = r.n
    where not i.deleted), '{}');
end
$$;

-- Returns the names of the inputs whose files the operator's rules have added. p_requested is the input before the
-- rules were applied, and p_sent the input afterwards. The worker signs these files whoever owns them.
create function picture_queue._operator_files(p_requested jsonb, p_sent jsonb) returns text[]
language plpgsql immutable set search_path = pg_catalog, pg_temp
as $$
begin
  return array(
    select e.key from jsonb_each(p_sent) e
    where (p_requested -> e.key) is distinct from e.value and exists (
      select from unnest('{storage:,generation:}'::text[]) f (prefix)
      cross join lateral picture_queue._input_texts(jsonb_build_object(e.key, e.value), f.prefix) t)
    order by e.key);
end
$$;

-- Returns whether the folder of a user in the bucket uploads has fewer files than max_user_uploads.
create function picture_queue._has_upload_room(p_user text) returns boolean
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
  v_limit integer := (select s.max_user_uploads from picture_queue.setting s);
begin
  return (
    select count(*) < v_limit
    from (
      select from storage.objects o
      -- 0 is the character after the slash.
      where o.bucket_id = 'uploads' and o.name collate "C" >= p_user || '/' and o.name collate "C" < p_user || '0'
      limit v_limit
    ) f);
end
$$;

-- Returns whether the user has fewer uploaded files than max_user_uploads. The policy of the bucket calls it.
create function picture_queue.may_upload() returns boolean
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
begin
  return picture_queue._find_table('storage.objects', true) is not null
    and picture_queue._has_upload_room(picture_queue._caller_id()::text);
end
$$;
comment on function picture_queue.may_upload() is 'Whether the user has fewer uploaded files than max_user_uploads.';

-- Refuses a file of a user who already has max_user_uploads files. The policy cannot do this alone: for a signed upload
-- URL, Storage checks the policy when it signs the URL and not when the file arrives. The lock makes uploads of one
-- user at the same moment count each other. Storage reports 42501 to the client as 403.
create function picture_queue._limit_uploads() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
  v_folder text := new.owner_id || '/';
begin
  -- A file that is renamed or replaced does not add to the number of files.
  if tg_op = 'UPDATE' and old.bucket_id = new.bucket_id and starts_with(old.name, v_folder)
    or exists (select from storage.objects o where o.bucket_id = new.bucket_id and o.name = new.name) then
    return new;
  end if;
  perform pg_catalog.pg_advisory_xact_lock(1903326074, pg_catalog.hashtext(new.owner_id) & 1023);
  if not picture_queue._has_upload_room(new.owner_id) then
    raise exception 'The user has as many files in the bucket uploads as max_user_uploads permits'
      using errcode = '42501', hint = 'Delete files, or raise max_user_uploads with set_setting.';
  end if;
  return new;
end
$$;

-- Returns whether the caller may read a file in the caller's folder of the bucket pictures. A file in the folder of a
-- generation needs a row in images: a worker that was killed may have stored a file before the row, and the generation
-- may then have failed or been cancelled. The policy of the bucket calls it for each file of a list.
create function picture_queue.may_read_picture(path text) returns boolean
language plpgsql stable security definer set search_path = pg_catalog, pg_temp set seq_page_cost = 100
as $$
declare
  v_user uuid := picture_queue._caller_id();
  v_folder text := split_part(path, '/', 2);
begin
  if v_folder !~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' then
    return true;
  end if;
  -- The comparison of user_id cannot use an index, so that the planner uses that of generation_id.
  return exists (
    select from public.images i
    where i.generation_id = v_folder::uuid and may_read_picture.path in (i.path, i.thumbnail_path)
      and not i.deleted and i.user_id is not distinct from v_user);
end
$$;
comment on function picture_queue.may_read_picture(text) is
  'Whether the user may read a file in their folder of the bucket pictures.';
