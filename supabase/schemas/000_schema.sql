-- picture-queue: a job queue inside your own Postgres.
--
-- Nouns. A *job* has a type and a payload and belongs to a *queue*. A *worker* claims jobs; each claim is an *attempt*
-- and grants a *lease*, which heartbeats extend. A *generation* is a request for pictures; it has one job, and its
-- *images* come from *predictions* at a provider.
--
-- The path of a job. enqueue_job writes a row through _enqueue, which sends an event and wakes idle workers.
-- claim_jobs picks rows and leases them. The worker calls report_progress and heartbeat_jobs while the job runs, and
-- report_jobs when the job has ended. _transition makes each change of state that a row of
-- picture_queue.state_transition permits, and _emit sends the event of the change. Work for other jobs that follows
-- from a change (children, batches, limits) is recorded as follow-ups. One worker calls maintain_jobs in a loop. It
-- processes the follow-ups, jobs that are due, expired leases and schedules.
--
-- The path of a picture. start_generation checks the input against picture_queue.model and enqueues a job of type
-- generate-image. The worker calls begin_prediction, record_prediction, save_images and finish_prediction, each under
-- its lease. While the prediction runs, the job may be parked, and receive_prediction applies a webhook of the
-- provider. _transition copies the state of the job to generations.
--
-- Schemas and names. The schema public has the functions, tables and views for users. The schema picture_queue has the
-- rest, and the API does not expose it. The name of a function that only our own functions call begins with an
-- underscore. Parameters of public functions have no prefix, those of private functions have p_, variables have v_.
--
-- Idioms. Sessions cache plans. A plan may be made while a table is empty, and be used when the table is full. With
-- the following forms such a plan still uses the right index:
-- - `set seq_page_cost = 100` on functions that are called often: the plan uses an index even while the table is
--   empty;
-- - `where id = any (array)` in addition to a join or instead of a join: the plan finds the rows by their primary key;
-- - `offset 0` in a subselect: the planner does not merge the subselect into the outer query, and evaluates it once;
-- - `(select true from … limit 1)` instead of exists: the plan searches an index for each row, and never makes a join;
-- - `= any (array(select … for update skip locked))`: the statement changes only rows that no other transaction has
--   locked, and does not wait for the others.
--
-- Advisory locks. Each lock has two numbers. The first number says what the second number stands for, in most cases as
-- a hash: 1903326068 a limit key, 1903326070 an external event, 1903326071 pruning, 1903326072 a lease, 1903326073 a
-- worker, 1903326074 the uploads of a user.
do $$
begin
  if to_regnamespace('picture_queue') is not null then
    raise exception 'picture-queue is in this database already'
      using hint = 'Upgrade it with the tool that `picture-queue doctor` names, such as `picture-queue migrate`.';
  elsif to_regclass('public.job_queue') is not null then
    raise exception 'public.job_queue exists already, and does not belong to picture-queue'
      using hint = '`picture-queue adopt --preview` shows how its jobs would be copied.';
  end if;
end
$$;

create schema picture_queue;
comment on schema picture_queue is 'The private objects of picture-queue: settings, policies, functions.';
