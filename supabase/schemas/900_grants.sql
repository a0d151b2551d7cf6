-- All privileges are explicit, since the default privileges of new objects differ: old projects grant everything to
-- the API roles, new projects grant nothing, a project may grant anything to its own roles, and Postgres lets every
-- role execute a new function.
select picture_queue._revoke_grants();
-- Service keys may execute each function of the API. Other roles may execute only the functions that are granted
-- below.
do $$
declare
  v_function text;
begin
  foreach v_function in array '{
    enqueue_job, enqueue_jobs, claim_next_job, claim_jobs, heartbeat_jobs, report_progress, report_jobs,
    complete_job, cancel_job, retry_job, get_job, list_jobs, get_generation, list_generations,
    register_worker, unregister_worker, picture_queue_version, start_generation, cancel_generation,
    start_generations, generation_batch, cancel_generation_batch,
    delete_generation, set_favourite, list_deleted_generations, record_deleted_files,
    list_models, set_model, set_input_rule, delete_input_rule, list_input_rules, begin_prediction, record_prediction,
    finish_prediction, receive_prediction, save_images, queue_status,
    set_setting, get_settings, set_queue, list_queues, pause_queue, resume_queue, drain_queue, purge_queue,
    set_limit, delete_limit, list_limits, pause_key, resume_key, set_tenant, list_tenants, enqueue_batch,
    get_batch, send_event, log_job, get_job_history, set_schedule, delete_schedule, pause_schedule,
    resume_schedule, run_schedule, list_schedules, change_jobs, failure_reasons, queue_counts,
    desired_workers, maintain_jobs, queue_doctor, job_position, explain_jobs, get_account, list_accounts, set_account,
    grant_credits, set_budget, list_budgets, delete_budget, list_ledger}'::text[]
  loop
    execute format('grant execute on function public.%I to service_role', v_function);
  end loop;
end
$$;

grant usage on schema picture_queue to authenticated, service_role;

-- For owners, through row level security, and for service keys.
grant select on public.job_queue, public.generations, public.images to authenticated, service_role;
grant execute on function
  public.cancel_job, public.get_job, public.list_jobs, public.get_generation, public.list_generations,
  public.picture_queue_version, public.start_generation, public.cancel_generation, public.list_models,
  public.start_generations, public.generation_batch, public.cancel_generation_batch,
  public.job_position, public.explain_jobs, public.get_account, public.delete_generation, public.set_favourite
  to authenticated, service_role;
-- Private functions that the functions above call with the privileges of the caller. They take the identity of the
-- caller from the token.
grant execute on function
  picture_queue.cancel_job, picture_queue.may_upload, picture_queue.may_read_picture, picture_queue.start_generation,
  picture_queue.start_generations, picture_queue.cancel_generation_batch,
  picture_queue.list_models, picture_queue.version,
  picture_queue.job_position, picture_queue.explain_jobs, picture_queue.get_account,
  picture_queue.delete_generation, picture_queue.set_favourite, picture_queue.search_generations,
  picture_queue._generation_filter,
  picture_queue._raise_error, picture_queue._require,
  picture_queue._jobs_where, picture_queue._filter_condition, picture_queue._reason,
  picture_queue._with_images, picture_queue._check_fields, picture_queue._fields_problem, picture_queue._value_problem
  to authenticated, service_role;

-- For service keys only.
grant select on public.queue_health, public.failed_jobs_recent, public.stuck_jobs to service_role;
grant select on picture_queue.queue, picture_queue.worker to service_role;
grant execute on function picture_queue.maintain, picture_queue.prune, picture_queue.counts to service_role;
