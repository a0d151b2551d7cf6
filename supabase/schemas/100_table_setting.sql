-- Defaults and limits of the whole project, in one row.
create table picture_queue.setting (
  only_row boolean primary key default true constraint setting_has_one_row check (only_row),
  max_payload_bytes integer not null default 65536,
  max_result_bytes integer not null default 1048576,
  max_prompt_length integer not null default 4000,
  max_attempts integer not null default 3,
  timeout_seconds real not null default 600,
  lease_seconds real not null default 30,
  backoff_seconds real not null default 5,
  backoff_cap_seconds real not null default 3600,
  default_model text not null default 'black-forest-labs/flux-schnell',
  constraint setting_is_in_range check (
    least(max_payload_bytes, max_result_bytes, max_prompt_length, max_attempts) > 0
    and least(timeout_seconds, lease_seconds, backoff_seconds, backoff_cap_seconds) > 0
    and greatest(timeout_seconds, lease_seconds, backoff_seconds, backoff_cap_seconds) <= 31536000
  )
);
comment on table picture_queue.setting is 'Defaults and limits of the whole project, in one row.';
insert into picture_queue.setting default values;
alter table picture_queue.setting enable row level security;
