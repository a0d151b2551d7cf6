-- Returns whether the caller acts for the project rather than for one of its users: with a service key, or over a
-- direct connection without a token and with the rights of service_role or of the owner of the tables. It reads the
-- token and the role of the session, but not current_user, which in a security definer function is the owner.
create function picture_queue._is_service() returns boolean
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
  v_token jsonb := nullif(current_setting('request.jwt.claims', true), '')::jsonb;
  v_role text := coalesce(nullif(current_setting('role'), 'none'), session_user);
begin
  return coalesce(v_token ->> 'role' = 'service_role',
    pg_has_role(v_role, 'service_role', 'usage') or pg_has_role(v_role, n.nspowner, 'usage'))
  from pg_catalog.pg_namespace n where n.oid = 'picture_queue'::regnamespace;
end
$$;

-- Returns the user that the caller's token names; null for a service key, and for a token of another issuer whose sub
-- is no uuid.
create function picture_queue._caller_id() returns uuid
language sql stable set search_path = pg_catalog, pg_temp
as $$
  select case when t.sub ~* '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' then t.sub::uuid end
  from (select nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub' as sub) t
$$;
