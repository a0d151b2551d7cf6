-- Cancels the job of a generation. The function runs with the caller's privileges, so row level security decides which
-- generations the caller sees. picture_queue.cancel_job checks that the caller may cancel the job.
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
