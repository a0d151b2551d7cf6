-- The webhooks of providers. Writes of workers need the lease of the job, but a parked job has none. A webhook needs
-- the id of the row of the prediction instead, which only the provider and the workers know.

-- Writes the progress of a parked job, which has no worker. The progress never decreases. At most two events a second
-- are sent.
create function picture_queue._show_parked_progress(p_job_id uuid, p_progress integer, p_message text) returns void
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  v_now timestamptz := picture_queue._now();
  v_announce boolean;
begin
  update public.job_queue j set
    progress = greatest(j.progress, p_progress),
    message = left(p_message, 500),
    version = j.version + 1,
    updated_at = v_now,
    progress_event_at = case when coalesce(j.progress_event_at < v_now - interval '0.5 seconds', true)
      then v_now else j.progress_event_at end
  where j.id = p_job_id and j.hold = 'parked'
    and (j.progress < p_progress or j.message is distinct from left(p_message, 500))
  returning j.progress_event_at = v_now
    and exists (select from picture_queue.queue q where q.name = j.queue and q.events = 'progress') into v_announce;
  if v_announce then
    perform picture_queue._emit(array[p_job_id]);
  end if;
end
$$;

-- Applies a webhook to the row of its prediction, and returns its outcome. The argument prediction is the id of this
-- row, which the URL of the webhook contains. The argument prediction_id is the id that the provider gave the
-- prediction. The outcomes:
-- applied   the status is later than the status of the last webhook
-- repeated  the row has this status or a later status
-- ignored   there is no such row, the row has ended, or the row has recorded another prediction
-- A webhook may arrive before the answer to the create call; then it records the id of the prediction. The end of a
-- prediction wakes its parked job, which then reads the prediction. If the job has not parked yet, the event is kept
-- and wakes the job as soon as it parks.
create function public.receive_prediction(
  prediction uuid, prediction_id text, status text, progress integer default null, message text default null)
returns jsonb
language plpgsql security definer set search_path = pg_catalog, pg_temp set lock_timeout = '2s'
as $$
declare
  v_order constant jsonb :=
    '{"starting": 1, "processing": 2, "succeeded": 3, "failed": 3, "canceled": 3, "aborted": 3}'::jsonb;
  v_row record;
  v_is_new boolean;
begin
  perform picture_queue._check_isolation();
  perform picture_queue._raise_problem(coalesce(
    'prediction_id ' || picture_queue._value_problem(coalesce(to_jsonb(prediction_id), 'null'), '["text", 200]'),
    'status ' || picture_queue._value_problem(coalesce(to_jsonb(status), 'null'),
      '["choice", "starting", "processing", "succeeded", "failed", "canceled", "aborted"]'),
    case when progress not between 0 and 100 then format('progress is %s, not 0 to 100', progress) end),
    'pass the id and the status of the prediction as the provider sent them, and its progress in percent');
  -- Every function locks the job before its prediction, so that two calls cannot deadlock.
  perform from public.job_queue j
  where j.id = (select p.job_id from picture_queue.prediction p where p.id = receive_prediction.prediction) for update;
  select * into v_row from picture_queue.prediction p where p.id = receive_prediction.prediction for update;
  if not found or v_row.state not in ('creating', 'created')
    or v_row.prediction_id <> receive_prediction.prediction_id
  then
    return '{"outcome": "ignored", "woken": 0}'::jsonb;
  end if;
  v_is_new := coalesce((v_order ->> receive_prediction.status)::integer > (v_order ->> v_row.status)::integer, true);
  if v_is_new then
    update picture_queue.prediction p
    set status = receive_prediction.status, state = 'created', prediction_id = receive_prediction.prediction_id,
      updated_at = picture_queue._now()
    where p.id = v_row.id;
    if v_order ->> receive_prediction.status = '3' then
      return jsonb_build_object('outcome', 'applied',
        'woken', picture_queue._send_event('prediction:' || v_row.id, to_jsonb(status)));
    end if;
  end if;
  if progress is not null and receive_prediction.status in ('starting', 'processing') then
    perform picture_queue._show_parked_progress(v_row.job_id, progress, message);
  end if;
  return jsonb_build_object('outcome', case when v_is_new then 'applied' else 'repeated' end, 'woken', 0);
exception
  when unique_violation then  -- another row has recorded this prediction
    return '{"outcome": "ignored", "woken": 0}'::jsonb;
  when others then
    perform picture_queue._translate_error(
      sqlstate, sqlerrm, format('another transaction holds prediction %s or its job', prediction));
    raise;
end
$$;
comment on function public.receive_prediction is 'Applies a webhook of a provider, and wakes the job.';
