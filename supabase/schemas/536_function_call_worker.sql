-- Calls of a worker over HTTP, by pg_cron and pg_net, for hosts that run a worker only during a request. The URL and
-- the secret are in Vault. A call is a hint: it may be lost, and the next minute makes another one.

-- Returns whether a schema has functions of a name, and all of them belong to roles whose code may run inside our
-- functions.
create function picture_queue._trusts_function(p_schema text, p_name text) returns boolean
language sql stable set search_path = pg_catalog, pg_temp
as $$
  select coalesce(bool_and(picture_queue._is_trusted(p.proowner, true)), false)
  from pg_catalog.pg_proc p
  join pg_catalog.pg_namespace n on n.oid = p.pronamespace
  where n.nspname = p_schema and p.proname = p_name
$$;

-- Returns a secret of Vault; null if there is none, or no Vault.
create function picture_queue._vault_secret(p_name text, out id uuid, out secret text)
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
  -- The name of the view is not in the text of the query, since without Vault a linter would report a missing table.
  v_view regclass := (
    select c.oid from pg_catalog.pg_class c
    where c.oid = to_regclass('vault.decrypted_secrets') and picture_queue._is_trusted(c.relowner, true));
begin
  if v_view is not null then
    execute format('select s.id, nullif(s.decrypted_secret, '''') from %s s where s.name = $1', v_view)
    into id, secret using p_name;
  end if;
end
$$;

-- Writes a secret of Vault.
create function picture_queue._set_vault_secret(p_name text, p_secret text, p_description text) returns void
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  v_id uuid := (picture_queue._vault_secret(p_name)).id;
begin
  if v_id is null then
    execute format('select %I.create_secret($1::text, $2::text, $3::text)', 'vault') using p_secret, p_name, p_description;
  else
    execute format('select %I.update_secret($1::uuid, $2::text)', 'vault') using v_id, p_secret;
  end if;
end
$$;

-- Lets pg_cron call the route /process-jobs of a worker each minute in which jobs are due, or ends the calls if p_url
-- is null. Without p_secret the secret of an earlier call stays, or a new one is made; read it with:
-- select decrypted_secret from vault.decrypted_secrets where name = 'picture_queue_worker_secret';
-- Returns 'scheduled', 'not called any more', or what is missing. Raises PQ_INVALID_ARGUMENT for a URL or a secret that
-- cannot be used. Only the owner may call it.
create function picture_queue.schedule_worker_calls(p_url text, p_secret text default null) returns text
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  v_scheduled text;
begin
  if length(p_url) > 2000 or p_url !~ '^(https://|http://(127[.]0[.]0[.]1|localhost)[:/])[^[:space:]@]+$' then
    perform picture_queue._raise_error('PQ_INVALID_ARGUMENT', 'url is not an https address without a user name',
      'pass the URL of the route, such as https://worker.example.com/process-jobs');
  elsif length(p_secret) not between 24 and 1000 or p_secret !~ '^[!-~]+$' then
    perform picture_queue._raise_error('PQ_INVALID_ARGUMENT', 'secret is shorter than 24 characters, or is not printable ASCII',
      'pass the PICTURE_QUEUE_PROCESS_SECRET of the worker, or null to make a secret');
  elsif not (picture_queue._trusts_function('vault', 'create_secret') and picture_queue._trusts_function('vault', 'update_secret')) then
    return 'Vault is not installed';
  end if;
  perform picture_queue._set_vault_secret('picture_queue_worker_url', coalesce(p_url, ''), 'The URL that pg_cron calls');
  if p_url is null then
    return 'not called any more';
  elsif p_secret is not null or (picture_queue._vault_secret('picture_queue_worker_secret')).secret is null then
    perform picture_queue._set_vault_secret('picture_queue_worker_secret',
      coalesce(p_secret, replace(gen_random_uuid()::text || gen_random_uuid()::text, '-', '')),
      'PICTURE_QUEUE_PROCESS_SECRET of the worker');
  end if;
  v_scheduled := picture_queue.schedule_maintenance();
  return case when v_scheduled <> 'scheduled' then v_scheduled
    when not picture_queue._trusts_function('net', 'http_post') then 'pg_net is not installed' else 'scheduled' end;
end
$$;

-- Calls the worker if a job is due; pg_cron does it after the maintenance. The call is sent after the commit. Returns
-- what was done. It raises no error, since the transaction may contain a round of maintenance.
create function picture_queue.call_worker() returns text
language plpgsql set search_path = pg_catalog, pg_temp set seq_page_cost = 100
as $$
declare
  v_url text := (picture_queue._vault_secret('picture_queue_worker_url')).secret;
  v_secret text := (picture_queue._vault_secret('picture_queue_worker_secret')).secret;
  v_call_id bigint;
begin
  if v_url is null or v_secret is null then
    return 'not set up';
  elsif not picture_queue._trusts_function('net', 'http_post') then
    return 'pg_net is not installed';
  elsif not exists (select from public.job_queue j where j.status = 'pending' and j.hold is null) then
    return 'no job is due';
  end if;
  -- pg_net sends requests in groups, and the next group waits for the slowest one. So the time limit is short; the
  -- worker continues after it.
  execute format('select %I.http_post($1::text, $2::jsonb, $3::jsonb, $4::jsonb, $5::integer)', 'net') into v_call_id
  using v_url, '{}'::jsonb, '{}'::jsonb, jsonb_build_object(
    'Content-Type', 'application/json', 'Authorization', 'Bearer ' || v_secret), 5000;
  update picture_queue.maintenance m set worker_call_id = v_call_id
  where m.only_row = any (array(select o.only_row from picture_queue.maintenance o for update skip locked));
  return 'called';
exception when others then
  raise warning 'the worker could not be called: %', sqlerrm;
  return 'failed';
end
$$;
