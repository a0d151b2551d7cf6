create function picture_queue._set_updated_at() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp
as $$
begin
  new.updated_at := picture_queue._now();
  return new;
end
$$;

-- The functions of picture-queue set updated_at themselves, since a call of this trigger function for each row takes a
-- quarter of the time of the update.
create trigger job_queue_updated_at before update on public.job_queue
for each row when (new.updated_at = old.updated_at) execute function picture_queue._set_updated_at();
