-- (stand-in until the dead letters land)
create function picture_queue._reason(p_error text) returns text
language sql immutable set search_path = ''
as $$ select regexp_replace(p_error, '[0-9]+', 'N', 'g') $$;
