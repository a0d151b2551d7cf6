-- Nothing is left to defaults: old projects grant everything to the API roles, new ones nothing, and
-- PostgreSQL lets everybody execute a new function.
revoke all on schema picture_queue from public, anon, authenticated, service_role;
revoke all on all tables in schema picture_queue from public, anon, authenticated, service_role;
revoke execute on all functions in schema picture_queue from public, anon, authenticated, service_role;
revoke all on
  public.job_queue, public.generations, public.images,
  public.queue_health, public.failed_jobs_recent, public.stuck_jobs
  from public, anon, authenticated, service_role;
revoke execute on function
  public.enqueue_job, public.enqueue_jobs, public.claim_next_job, public.claim_jobs, public.heartbeat_jobs,
  public.report_progress, public.report_jobs, public.complete_job, public.cancel_job, public.retry_job,
  public.get_job, public.list_jobs, public.get_generation, public.list_generations, public.register_worker,
  public.unregister_worker, public.picture_queue_version, public.start_generation, public.cancel_generation,
  public.list_models, public.begin_prediction, public.record_prediction, public.finish_prediction,
  public.save_images, public.queue_status,
  public.set_setting, public.get_settings, public.set_queue, public.list_queues, public.pause_queue,
  public.resume_queue, public.drain_queue, public.purge_queue, public.set_limit, public.delete_limit,
  public.list_limits, public.pause_key,
  public.resume_key, public.set_tenant, public.list_tenants, public.enqueue_batch, public.get_batch, public.send_event,
  public.log_job, public.get_job_history, public.set_schedule, public.delete_schedule, public.pause_schedule,
  public.resume_schedule, public.run_schedule, public.list_schedules, public.change_jobs,
  public.failure_reasons, public.queue_counts, public.desired_workers, public.maintain_jobs, public.queue_doctor,
  public.job_position, public.explain_jobs
  from public, anon, authenticated, service_role;

grant usage on schema picture_queue to authenticated, service_role;

-- Owners, through row level security, and service keys.
grant select on public.job_queue, public.generations, public.images to authenticated, service_role;
grant execute on function
  public.cancel_job, public.get_job, public.list_jobs, public.get_generation, public.list_generations,
  public.picture_queue_version, public.start_generation, public.cancel_generation, public.list_models,
  public.job_position, public.explain_jobs
  to authenticated, service_role;
-- What those call with the caller's rights; each takes the caller's identity from the token.
grant execute on function
  picture_queue.cancel_job, picture_queue.start_generation, picture_queue.cancel_generation,
  picture_queue.list_models, picture_queue.version, picture_queue._refuse, picture_queue._found,
  picture_queue.job_position, picture_queue.explain_jobs,
  picture_queue._jobs_where, picture_queue._filter_condition, picture_queue._jobs_by_state, picture_queue._reason,
  picture_queue._with_images,
  picture_queue._check_fields, picture_queue._fields_problem, picture_queue._value_problem
  to authenticated, service_role;

-- Service keys only.
grant select on public.queue_health, public.failed_jobs_recent, public.stuck_jobs to service_role;
grant select on picture_queue.queue, picture_queue.worker to service_role;
grant execute on function
  public.enqueue_job, public.enqueue_jobs, public.claim_next_job, public.claim_jobs, public.heartbeat_jobs,
  public.report_progress, public.report_jobs, public.complete_job, public.retry_job, public.register_worker,
  public.unregister_worker, public.begin_prediction, public.record_prediction, public.finish_prediction,
  public.save_images, public.queue_status,
  public.set_setting, public.get_settings, public.set_queue, public.list_queues, public.pause_queue,
  public.resume_queue, public.drain_queue, public.purge_queue, public.set_limit, public.delete_limit,
  public.list_limits, public.pause_key,
  public.resume_key, public.set_tenant, public.list_tenants, public.enqueue_batch, public.get_batch, public.send_event,
  public.log_job, public.get_job_history, public.set_schedule, public.delete_schedule, public.pause_schedule,
  public.resume_schedule, public.run_schedule, public.list_schedules, public.change_jobs,
  public.failure_reasons, public.queue_counts, public.desired_workers, public.maintain_jobs, public.queue_doctor
  to service_role;
grant execute on function picture_queue.maintain, picture_queue.prune, picture_queue.counts to service_role;
