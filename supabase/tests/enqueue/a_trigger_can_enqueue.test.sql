begin;
select plan(1);

create table orders (id integer);
create function enqueue_order() returns trigger language plpgsql as $$
begin
  perform enqueue_job('t', jsonb_build_object('order', new.id), queue => 'q');
  return new;
end
$$;
create trigger enqueue_order after insert on orders for each row execute function enqueue_order();
insert into orders values (7);
select is((select payload ->> 'order' from job_queue where queue = 'q'), '7', 'the insert enqueued a job');

select * from finish();
rollback;
