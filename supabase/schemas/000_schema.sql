-- picture-queue: a job queue inside your own Postgres.
--
-- Nouns. A *job* has a type and a payload and lies in a *queue*. A *worker* claims jobs; each claim
-- is an *attempt* and grants a *lease*, which heartbeats extend. A *generation* is a picture
-- somebody asked for; it has one job, and its *images* come from *predictions* at Replicate.
--
-- The way of a job. enqueue_job writes a row through _enqueue, which sends an event and wakes idle workers. claim_jobs
-- picks rows and leases them. The worker calls report_progress and heartbeat_jobs while the job runs, and report_jobs
-- when it has ended. _transition makes each change of state, as a row of picture_queue.state_transition permits, and
-- _emit sends its event. Work for other jobs that follows from a change (children, batches, limits) is recorded as
-- follow-ups. maintain_jobs, which one worker calls all the time, processes these, due jobs, expired leases and
-- schedules.
--
-- The way of a picture. start_generation checks the input against picture_queue.model and enqueues a job of type
-- generate-image. The worker calls begin_prediction, record_prediction, save_images and finish_prediction, each under
-- its lease; _transition copies the state of the job to generations.
--
-- Where things live. public holds what users call and see. This schema holds the rest and is not
-- exposed by the API; a leading underscore marks what only our own functions call. Parameters of
-- public functions are plain words, private ones are p_, variables v_.
--
-- Idioms. Sessions keep plans, and a plan may be made while a table is empty and used when it is full. With these forms
-- such a plan uses the right index:
-- - `set seq_page_cost = 100` on functions that are called often: the plan uses an index even while the table is empty;
-- - `where id = any (array)` beside or instead of a join: the rows are looked up by their ids;
-- - `offset 0` in a subselect: the planner does not merge it into the outer query, so it is evaluated once;
-- - `(select true from … limit 1)` instead of exists: it is looked up for each row and never becomes a join;
-- - `= any (array(select … for update skip locked))`: changes the rows that nobody has locked, and waits for none.
do $$
begin
  if to_regnamespace('picture_queue') is not null then
    raise exception 'picture-queue is in this database already'
      using hint = 'If `picture-queue migrate` put it there, go on with that. `picture-queue doctor` tells.';
  elsif to_regclass('public.job_queue') is not null then
    raise exception 'public.job_queue is there already, and is not of picture-queue'
      using hint = '`picture-queue adopt --preview` says how its jobs come along.';
  end if;
end
$$;

create schema picture_queue;
comment on schema picture_queue is 'The private half of picture-queue: settings, policies, functions.';
