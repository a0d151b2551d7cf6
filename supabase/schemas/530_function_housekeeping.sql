-- What any worker does beside claiming, and pg_cron each minute where it is installed.
create function picture_queue.maintain() returns jsonb
language plpgsql security definer set search_path = ''
as $$
declare
  v_promoted integer := picture_queue._promote(1000);
  v_swept text[] := picture_queue._sweep(1000);
begin
  if v_promoted > 0 or v_swept <> '{}' then
    perform picture_queue._wake((select array_agg(name) from picture_queue.queue), 'enqueue');
  end if;
  return jsonb_build_object('promoted', v_promoted, 'swept', to_jsonb(v_swept));
end
$$;
