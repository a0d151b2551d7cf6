-- picture-queue: a job queue inside your own Postgres.
--
-- Nouns. A *job* has a type and a payload and lies in a *queue*. A *worker* claims jobs; each claim
-- is an *attempt* and grants a *lease*, which heartbeats prolong. A *generation* is a picture
-- somebody asked for; it has one job, and its *images* come from *predictions* at Replicate.
--
-- The way of a job. enqueue_job writes a row through _enqueue, which sends an event and wakes idle
-- workers. claim_jobs picks rows and leases them. The worker says how it goes through report_progress
-- and heartbeat_jobs, and how it ended through report_jobs. Each change of state, whoever asks for it,
-- is made by _transition, along an edge of the table picture_queue.edge, and announced by _emit. What
-- it leaves to do for other jobs (children, batches, limits) is written down as follow-ups; these, due
-- jobs, expired leases and schedules are the work of maintain_jobs, which one worker calls all the time.
--
-- The way of a picture. start_generation checks the input against picture_queue.model and enqueues
-- a job of type generate-image; the worker takes begin_prediction, record_prediction, save_images
-- and finish_prediction, each under its lease; _transition mirrors the state into generations.
--
-- Where things live. public holds what users call and see. This schema holds the rest and is not
-- exposed by the API; a leading underscore marks what only our own functions call. Parameters of
-- public functions are plain words, private ones are p_, variables v_.
--
-- Plans. What runs all day has seq_page_cost = 100, so that a plan made while a table was empty, and
-- kept by its session, is still right when the table is full: it goes through the index. Rows are found
-- by = any (array) for the same reason.
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
