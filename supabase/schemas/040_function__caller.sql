-- Returns whether the caller has a service key, or a direct connection without a token, and so is not one of the
-- project's users. This depends on the token, since in a security definer function current_user is the owner.
create function picture_queue._is_service() returns boolean
language sql stable set search_path = pg_catalog, pg_temp
as $$
  select coalesce(
    nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'role',
    case when session_user in ('anon', 'authenticated', 'authenticator') then 'anon' else 'service_role' end
  ) = 'service_role'
$$;

-- Returns the user that the caller's token names; null for a service key.
create function picture_queue._caller_id() returns uuid
language sql stable set search_path = pg_catalog, pg_temp
as $$ select (nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub')::uuid $$;
