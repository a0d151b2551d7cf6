create function picture_queue._set_updated_at() returns trigger
language plpgsql set search_path = ''
as $$
begin
  new.updated_at := picture_queue._now();
  return new;
end
$$;

create trigger job_queue_updated_at before update on public.job_queue
for each row execute function picture_queue._set_updated_at();
