-- Returns whether the caller acts for the project rather than for one of its users: with a service key, or over a
-- direct connection without a token. The token decides, since in a security definer function current_user is the owner.
-- Without a token, a session that logged in as a role of the API, or was set to such a role, does not act for the
-- project.
create function picture_queue._is_service() returns boolean
language sql stable set search_path = pg_catalog, pg_temp
as $$
  select coalesce(
    nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'role',
    case when array[session_user::text, current_setting('role')] && array['anon', 'authenticated', 'authenticator']
      then 'anon' else 'service_role' end
  ) = 'service_role'
$$;

-- Returns the user that the caller's token names; null for a service key.
create function picture_queue._caller_id() returns uuid
language sql stable set search_path = pg_catalog, pg_temp
as $$ select (nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub')::uuid $$;
