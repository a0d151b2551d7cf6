-- Cancels the job of a generation. It runs with the caller's privileges, so row level security decides which
-- generations the caller sees; picture_queue.cancel_job checks that the caller may cancel the job.
create function public.cancel_generation(generation_id uuid, request_id uuid default null) returns jsonb
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp set lock_timeout = '2s'
as $$
declare
  v_generation jsonb;
begin
  v_generation := picture_queue._require((
    select to_jsonb(g) from public.generations g where g.id = cancel_generation.generation_id),
    'PQ_UNKNOWN_GENERATION', format('generation_id is %s', generation_id));
  return picture_queue.cancel_job((v_generation ->> 'job_id')::uuid, request_id)
    || jsonb_build_object('generation_id', generation_id);
exception when lock_not_available or deadlock_detected then
  return picture_queue._require(null, 'PQ_BUSY', 'another transaction has locked a table that this call reads');
end
$$;
comment on function public.cancel_generation is 'Cancels a generation of the caller.';

-- Returns the enabled models with their inputs. capabilities: what the provider of the model can promise, as a worker
-- registered it; null before.
create function picture_queue.list_models() returns jsonb
language plpgsql stable security definer set search_path = pg_catalog, pg_temp set lock_timeout = '2s'
as $$
begin
  return (
    select coalesce(jsonb_agg(jsonb_build_object(
      'model_id', m.model_id, 'provider', m.provider, 'kind', m.kind, 'inputs', m.inputs, 'typical_seconds', m.typical_seconds,
      'price_usd_per_image', m.price_usd_per_image, 'capabilities', t.capabilities,
      'default', m.model_id = s.default_model) order by m.model_id), '[]')
    from picture_queue.model m cross join picture_queue.setting s
    left join picture_queue.job_type t on t.name = picture_queue._generation_job_type(m.provider)
    where m.enabled);
exception when lock_not_available or deadlock_detected then
  return picture_queue._raise_busy();
end
$$;

create function public.list_models() returns jsonb
language sql stable security invoker set search_path = pg_catalog, pg_temp
as $$ select picture_queue.list_models() $$;
comment on function public.list_models is 'The enabled models, with their inputs.';
