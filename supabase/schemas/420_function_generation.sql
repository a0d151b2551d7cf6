-- Cancels the job of a generation, if it is the caller's.
create function picture_queue.cancel_generation(p_generation_id uuid, p_request_id uuid) returns jsonb
language plpgsql security definer set search_path = pg_catalog, pg_temp set lock_timeout = '2s'
as $$
declare
  v_job_id uuid;
begin
  select g.job_id into v_job_id from public.generations g
  where g.id = p_generation_id and (picture_queue._is_service() or g.user_id = picture_queue._caller_id());
  if not found then
    perform picture_queue._refuse('PQ_UNKNOWN_GENERATION', format('generation_id is %s', p_generation_id));
  end if;
  return picture_queue.cancel_job(v_job_id, p_request_id) || jsonb_build_object('generation_id', p_generation_id);
exception when lock_not_available or deadlock_detected then
  return picture_queue._refuse_busy();
end
$$;

create function public.cancel_generation(generation_id uuid, request_id uuid default null) returns jsonb
language sql volatile security invoker set search_path = pg_catalog, pg_temp
as $$ select picture_queue.cancel_generation(generation_id, request_id) $$;
comment on function public.cancel_generation is 'Cancels a generation of the caller.';

-- Returns the enabled models with their inputs.
create function picture_queue.list_models() returns jsonb
language plpgsql stable security definer set search_path = pg_catalog, pg_temp set lock_timeout = '2s'
as $$
begin
  return (
    select coalesce(jsonb_agg(jsonb_build_object(
      'model_id', m.model_id, 'kind', m.kind, 'inputs', m.inputs, 'typical_seconds', m.typical_seconds,
      'price_usd_per_image', m.price_usd_per_image, 'default', m.model_id = s.default_model) order by m.model_id), '[]')
    from picture_queue.model m cross join picture_queue.setting s
    where m.enabled);
exception when lock_not_available or deadlock_detected then
  return picture_queue._refuse_busy();
end
$$;

create function public.list_models() returns jsonb
language sql stable security invoker set search_path = pg_catalog, pg_temp
as $$ select picture_queue.list_models() $$;
comment on function public.list_models is 'The models on offer, with their inputs.';
