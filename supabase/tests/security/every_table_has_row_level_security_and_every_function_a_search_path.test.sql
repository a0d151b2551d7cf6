begin;
select plan(2);

select is((select array_agg(c.relname::text) from pg_class c where c.relnamespace = 'picture_queue'::regnamespace and c.relkind in ('r', 'p') and not c.relrowsecurity),
  null, 'no table lacks row level security');
select is((select array_agg(p.proname::text) from pg_proc p where p.pronamespace = 'picture_queue'::regnamespace
  and not coalesce(p.proconfig @> '{"search_path=pg_catalog, pg_temp"}', false)), null, 'no function lacks a search_path');

select * from finish();
rollback;
