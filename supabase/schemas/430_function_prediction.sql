-- The functions with which a worker runs a generation. They ensure that a prediction is paid for once. begin_prediction
-- inserts a row, which is committed before the provider is called, or returns the live row of a worker that died.
-- record_prediction stores the id of the prediction after the call. finish_prediction writes the final state. All of
-- them require the lease of the job and lock the row of the job.

-- Returns true if a row got its final state from an attempt that ended without a report, because its worker died or
-- released the job. The outcome of that attempt is not known, so the next attempt must repeat it with the same
-- prediction, rather than pay for another.
create function picture_queue._is_unreported(p_row picture_queue.prediction) returns boolean
language plpgsql stable set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan
set seq_page_cost = 100
as $$
begin
  return not exists (
      select from picture_queue.prediction p
      where p.generation_id = p_row.generation_id and p.created_at > p_row.created_at)
    and (
      select coalesce(bool_and(h.action in ('expire', 'release')), false) from picture_queue.history h
      where h.job_id = p_row.job_id and h.at >= p_row.finished_at
        and h.action in ('expire', 'release', 'fail', 'back_off', 'snooze', 'park', 'cancel', 'retry'));
end
$$;

-- Returns the row of a generation that an attempt resumes: a live row; or a row that has succeeded and whose images are
-- saved; or a row with a prediction whose end was not reported, which becomes live again. Null if there is none. A
-- succeeded row without saved images, whose generation was cancelled, is not resumed: a retry creates another row.
create function picture_queue._resume_prediction(p_generation_id uuid) returns picture_queue.prediction
language plpgsql set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan set seq_page_cost = 100
as $$
declare
  v_row picture_queue.prediction;
begin
  select * into v_row from picture_queue.prediction p
  where p.generation_id = p_generation_id
    and case
      when p.state = 'succeeded' then exists (
        select from public.images i where i.generation_id = p_generation_id and i.created_at >= p.created_at)
      when p.state in ('failed', 'lost') then p.prediction_id is not null and picture_queue._is_unreported(p)
      else p.state in ('creating', 'created') end
  order by p.state = 'succeeded', p.created_at desc limit 1;
  if v_row.state in ('failed', 'lost') then
    update picture_queue.prediction p
    set state = 'created', error = null, metrics = null, cost_usd = null, finished_at = null,
      updated_at = picture_queue._now()
    where p.id = v_row.id returning * into v_row;
  end if;
  return v_row;
end
$$;

-- Creates the row of a prediction, or resumes the existing one, and returns the data for the call of the provider:
-- - prediction.id: the id of the row; age_seconds: the time since its creation.
-- - resumed: true if the row existed before; see _resume_prediction.
-- - images: the saved images of this prediction, without those of earlier predictions.
-- - saved_paths: the paths of all files of the generation that have a row.
-- - files: the paths of the pictures of generations that the input names.
-- - owned: the prediction ids in the provider's rows of the last two hours, the newest 10,000. A prediction whose id is
--   not among them may have lost its row.
-- - rows_without_id: the rows of other generations with the same model whose prediction may exist although its id is
--   not recorded: those of the last two hours, the newest 1,000.
-- - equal_rows_without_id: those of rows_without_id that are live and have an equal input.
--   These three are only filled for a row that existed before and has no prediction id, and if lost is given. Each
--   start of a generation would otherwise read the rows of all others.
-- - running: the number of predictions of the last hour that have not ended, up to 10,000. The workers poll less often
--   if it is high.
-- lost is the id of a row of the generation whose prediction is searched for. This row is then returned, even if its
-- state is lost, and no row is created. Each row is committed before its prediction is created. So if the worker first
-- lists the predictions of the provider, and then calls this function, the row of each listed prediction is among owned
-- or rows_without_id.
create function public.begin_prediction(job_id uuid, lease_id uuid, lost uuid default null) returns jsonb
language plpgsql security definer set search_path = pg_catalog, pg_temp set lock_timeout = '2s'
as $$
declare
  v_job record;
  v_generation record;
  v_model record;
  v_row record;
  v_resumed boolean;
  v_is_searched boolean;
begin
  v_job := picture_queue._lock_job(job_id, lease_id);
  select * into v_generation from public.generations g where g.id = v_job.generation_id and not g.deleted;
  if not found then
    perform picture_queue._raise_error('PQ_UNKNOWN_GENERATION', format('job %s has no generation', v_job.id));
  end if;
  select * into v_model from picture_queue.model m where m.model_id = v_generation.model_id;
  if not found then
    perform picture_queue._raise_error('PQ_UNKNOWN_MODEL', format('model_id is %s', v_generation.model_id));
  end if;
  if begin_prediction.lost is null then
    select * into v_row from picture_queue._resume_prediction(v_generation.id);
  else
    select * into v_row from picture_queue.prediction p
    where p.id = begin_prediction.lost and p.generation_id = v_generation.id;
  end if;
  v_resumed := v_row.id is not null;
  if not v_resumed and begin_prediction.lost is not null then
    perform picture_queue._raise_error('PQ_CONFLICT',
      format('prediction %s does not belong to job %s', begin_prediction.lost, job_id));
  elsif not v_resumed then
    insert into picture_queue.prediction (job_id, generation_id, attempt, provider, model_id, input, created_at, updated_at)
    values (v_job.id, v_generation.id, v_job.attempt, v_model.provider, v_model.model_id,
      v_generation.input || case when v_model.inputs @> '[{"name": "prompt"}]' and v_generation.prompt <> ''
        then jsonb_build_object('prompt', v_generation.prompt) else '{}' end,
      picture_queue._now(), picture_queue._now())
    returning * into v_row;
  end if;
  v_is_searched := (v_resumed and v_row.state = 'creating') or begin_prediction.lost is not null;
  return jsonb_build_object(
    'generation', to_jsonb(v_generation), 'model', to_jsonb(v_model), 'prediction', to_jsonb(v_row),
    'resumed', v_resumed,
    'age_seconds', extract(epoch from picture_queue._now() - v_row.created_at),
    'images', (select coalesce(jsonb_agg(to_jsonb(i) order by i.n), '[]') from public.images i
      where i.generation_id = v_generation.id and i.created_at >= v_row.created_at),
    'saved_paths', array(
      select f.path from public.images i cross join lateral (values (i.path), (i.thumbnail_path)) as f (path)
      where i.generation_id = v_generation.id and f.path is not null order by f.path),
    'files', picture_queue._referenced_paths(v_row.input),
    'strip_metadata', (select s.strip_metadata from picture_queue.setting s),
    'owned', array(
      select p.prediction_id from picture_queue.prediction p
      where v_is_searched and p.provider = v_row.provider and p.prediction_id is not null
        and p.created_at > picture_queue._now() - interval '2 hours'
      order by p.created_at desc limit 10000),
    'equal_rows_without_id', array(
      select p.id from picture_queue.prediction p
      where v_is_searched and p.provider = v_row.provider and p.prediction_id is null and p.state = 'creating'
        and p.created_at > picture_queue._now() - interval '2 hours' and p.model_id = v_row.model_id
        and p.input = v_row.input and p.generation_id <> v_generation.id
      order by p.created_at desc limit 1000),
    'rows_without_id', array(
      select p.id from picture_queue.prediction p
      where v_is_searched and p.provider = v_row.provider and p.prediction_id is null
        and p.state in ('creating', 'lost', 'canceled')
        and p.created_at > picture_queue._now() - interval '2 hours' and p.model_id = v_row.model_id
        and p.generation_id <> v_generation.id
      order by p.created_at desc limit 1000),
    'running', (select count(*) from (
      select from picture_queue.prediction p
      where p.provider = v_row.provider and p.state in ('creating', 'created')
        and p.created_at > picture_queue._now() - interval '1 hour' limit 10000) r));
exception when deadlock_detected or lock_not_available then
  return picture_queue._raise_busy(format('job %s or its generation is locked by another transaction', job_id));
end
$$;
comment on function public.begin_prediction is 'Creates the row of a prediction, or returns the existing one.';

-- Locks and returns a prediction of the job under this lease.
create function picture_queue._lock_prediction(p_job_id uuid, p_lease_id uuid, p_prediction uuid)
returns picture_queue.prediction
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  v_job public.job_queue := picture_queue._lock_job(p_job_id, p_lease_id);
  v_row picture_queue.prediction;
begin
  select * into v_row from picture_queue.prediction p
  where p.id = p_prediction and p.generation_id = v_job.generation_id for update;
  if not found then
    perform picture_queue._raise_error('PQ_CONFLICT', format('prediction %s does not belong to job %s', p_prediction, p_job_id));
  end if;
  return v_row;
end
$$;

create function public.record_prediction(job_id uuid, lease_id uuid, prediction uuid, prediction_id text) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp set lock_timeout = '2s'
as $$
declare
  v_row record;
begin
  v_row := picture_queue._lock_prediction(job_id, lease_id, prediction);
  perform picture_queue._raise_problem('prediction_id ' || picture_queue._value_problem(
    coalesce(to_jsonb(prediction_id), 'null'), '["text", 200]'));
  if v_row.prediction_id is not distinct from record_prediction.prediction_id then
    return;
  elsif v_row.state <> 'creating' then
    perform picture_queue._raise_error('PQ_CONFLICT', format('prediction %s is %s already', prediction, v_row.state));
  end if;
  update picture_queue.prediction p
  set prediction_id = record_prediction.prediction_id, state = 'created', updated_at = picture_queue._now()
  where p.id = v_row.id;
exception
  when unique_violation then
    perform picture_queue._raise_error('PQ_CONFLICT', format('prediction_id %s belongs to another row', prediction_id));
  when deadlock_detected or lock_not_available then
    perform picture_queue._raise_busy(format('another transaction holds prediction %s or records prediction_id %s', prediction, prediction_id));
end
$$;
comment on function public.record_prediction is 'Stores the id that the provider gave to a prediction.';

-- state: succeeded, failed, canceled, aborted, or lost (the outcome of the create call is unknown, and no prediction
-- was found). Metrics that are too large, or that some clients cannot read, are left out: they must not fail a
-- prediction that is paid for.
create function public.finish_prediction(
  job_id uuid, lease_id uuid, prediction uuid, state text, error text default null, metrics jsonb default null)
returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp set lock_timeout = '2s'
as $$
declare
  v_row record;
  v_metrics jsonb := case when picture_queue._json_problem(metrics, 16384) is null then metrics end;
begin
  v_row := picture_queue._lock_prediction(job_id, lease_id, prediction);
  perform picture_queue._raise_problem('state ' || picture_queue._value_problem(
    coalesce(to_jsonb(state), 'null'), '["choice", "succeeded", "failed", "canceled", "aborted", "lost"]'));
  update picture_queue.prediction p
  set state = finish_prediction.state, error = left(finish_prediction.error, 8192),
    metrics = v_metrics,
    cost_usd = picture_queue._prediction_cost(p.model_id, p.input, finish_prediction.state, v_metrics, (
      select count(*) from public.images i
      where i.generation_id = p.generation_id and i.created_at >= p.created_at)),
    updated_at = picture_queue._now(), finished_at = picture_queue._now()
  where p.id = v_row.id and p.state in ('creating', 'created');
  -- A webhook may have sent the event although the job did not park.
  delete from picture_queue.external_event s where s.name = 'prediction:' || v_row.id;
exception when lock_not_available or deadlock_detected then
  perform picture_queue._raise_busy(format('prediction %s is locked by another transaction', prediction));
end
$$;
comment on function public.finish_prediction is 'Ends the row of a prediction.';

-- Returns the problem with the images of save_images; null if there is none. A thumbnail must be in the folder of its
-- picture, so that the same users may read both.
create function picture_queue._images_problem(p_images jsonb) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
begin
  if not picture_queue._is_object_list(p_images) or jsonb_array_length(p_images) > 1000 then
    return 'images is not a list of up to 1000 {n, path, mime_type, width, height, bytes, ...}';
  end if;
  return (
    select p.problem
    from jsonb_array_elements(p_images) with ordinality as i (image, i)
    cross join lateral (select coalesce(
      picture_queue._fields_problem(format('images[%s].', i.i - 1), i.image, '{
        "n": ["integer", 1, 2147483647],
        "path": ["text", 1024],
        "mime_type": ["text", 255],
        "width": ["integer", 0, 2147483647],
        "height": ["integer", 0, 2147483647],
        "bytes": ["integer", 0, 9223372036854775807],
        "sha256": ["text", 64, 64],
        "blurhash": ["text", 200],
        "thumbnail_path": ["text", 1024]
      }'),
      case
        when num_nulls(i.image ->> 'n', i.image ->> 'path', i.image ->> 'mime_type') > 0
          then format('images[%s] lacks n, path or mime_type', i.i - 1)
        when regexp_replace(i.image ->> 'thumbnail_path', '[^/]*$', '') <> regexp_replace(i.image ->> 'path', '[^/]*$', '')
          then format('images[%s].thumbnail_path is not in the folder of path', i.i - 1)
      end) as problem) p
    where p.problem is not null order by i.i limit 1);
end
$$;

-- Returns the problem with the missing images of save_images; null if there is none.
create function picture_queue._missing_images_problem(p_missing jsonb) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
begin
  if p_missing is null then
    return null;
  elsif not picture_queue._is_object_list(p_missing) or jsonb_array_length(p_missing) > 1000 then
    return 'missing is not a list of up to 1000 {n, reason}';
  end if;
  return (
    select p.problem
    from jsonb_array_elements(p_missing) with ordinality as i (image, i)
    cross join lateral (select coalesce(
      picture_queue._fields_problem(format('missing[%s].', i.i - 1), i.image,
        '{"n": ["integer", 1, 2147483647], "reason": ["text", 2000]}'),
      case when num_nulls(i.image ->> 'n', i.image ->> 'reason') > 0
        then format('missing[%s] lacks n or reason', i.i - 1) end) as problem) p
    where p.problem is not null order by i.i limit 1);
end
$$;

-- images: a list of objects with n, path, mime_type, width, height, bytes, sha256, blurhash and thumbnail_path.
-- missing: a list of {n, reason} of the pictures that could not be stored; null changes nothing. The call can be
-- repeated.
create function public.save_images(job_id uuid, lease_id uuid, images jsonb, missing jsonb default null) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp set lock_timeout = '2s'
as $$
declare
  v_job record;
begin
  v_job := picture_queue._lock_job(job_id, lease_id);
  missing := nullif(missing, 'null');
  perform picture_queue._raise_problem(coalesce(
    picture_queue._images_problem(images), picture_queue._missing_images_problem(missing)));
  insert into public.images (generation_id, user_id, n, path, mime_type, width, height, bytes, sha256, blurhash,
    thumbnail_path, created_at)
  select v_job.generation_id, v_job.user_id, i.n, i.path, i.mime_type, i.width, i.height, i.bytes, i.sha256,
    i.blurhash, i.thumbnail_path, picture_queue._now()
  from jsonb_to_recordset(images) as i (
    n integer, path text, mime_type text, width integer, height integer, bytes bigint, sha256 text, blurhash text,
    thumbnail_path text)
  order by i.n
  on conflict (generation_id, n) do update set path = excluded.path, mime_type = excluded.mime_type,
    width = excluded.width, height = excluded.height, bytes = excluded.bytes, sha256 = excluded.sha256,
    blurhash = excluded.blurhash, thumbnail_path = excluded.thumbnail_path, created_at = excluded.created_at;
  update public.generations g set missing_images = missing
  where g.id = v_job.generation_id and g.missing_images <> missing;
exception when others then
  perform picture_queue._translate_error(sqlstate, sqlerrm);
  raise;
end
$$;
comment on function public.save_images is 'Writes the images of a generation under the lease of its job.';
