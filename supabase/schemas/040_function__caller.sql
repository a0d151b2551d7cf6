-- True when the caller acts for the project rather than for one of its users: a service key, or a
-- direct connection without any token. Inside a definer function current_user is the owner, so the
-- token decides, never current_user.
create function picture_queue._is_service() returns boolean
language sql stable set search_path = pg_catalog, pg_temp
as $$
  select coalesce(
    nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'role',
    case when session_user in ('anon', 'authenticated', 'authenticator') then 'anon' else 'service_role' end
  ) = 'service_role'
$$;

-- The user the caller is, from the token; null for a service key.
create function picture_queue._caller_id() returns uuid
language sql stable set search_path = pg_catalog, pg_temp
as $$ select (nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub')::uuid $$;
