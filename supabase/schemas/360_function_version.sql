-- Returns version (of the SQL), contract (a number that rises when a function is added or changed) and
-- oldest_client_contract (clients that were written for this contract or a later one work with these functions).
create function picture_queue.version() returns jsonb
language sql immutable set search_path = pg_catalog, pg_temp
as $$ select jsonb_build_object('version', '0.1.0', 'contract', 6, 'oldest_client_contract', 1) $$;

create function public.picture_queue_version() returns jsonb
language sql stable security invoker set search_path = pg_catalog, pg_temp
as $$ select picture_queue.version() $$;
comment on function public.picture_queue_version is 'The version of picture-queue in this database.';
