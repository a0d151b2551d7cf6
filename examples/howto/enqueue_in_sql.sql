-- The job is written in the same transaction as the order.
create table orders (id bigint primary key, email text not null);

begin;
insert into orders values (7, 'ada@example.com');
select enqueue_job('send-receipt', '{"order": 7}', queue => 'howto-sql');
commit;

-- A trigger enqueues a job for every new order. Its function runs with the privileges of its owner,
-- because users may not call enqueue_job.
create function enqueue_receipt() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
begin
  perform public.enqueue_job('send-receipt', jsonb_build_object('order', new.id), queue => 'howto-sql');
  return new;
end
$$;
create trigger enqueue_receipt after insert on orders for each row execute function enqueue_receipt();
insert into orders values (8, 'bob@example.com');

select payload from job_queue where queue = 'howto-sql' order by seq;

drop table orders;
drop function enqueue_receipt;
select change_jobs('cancel', '{"queue": "howto-sql"}');
