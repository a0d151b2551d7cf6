-- Set how long jobs are kept; null resets a setting to its default.
select set_setting('{"keep_completed_seconds": 86400, "archive": true, "keep_archive_months": 3}');

-- One worker or pg_cron runs the maintenance regularly. This call runs it now.
select maintain_jobs(force => true);

-- List the doctor's findings, the worst first.
select f ->> 'verdict' as verdict, f ->> 'check' as "check", f ->> 'detail' as detail, f ->> 'remedy' as remedy
from jsonb_array_elements(queue_doctor(client_time => now())) as f
order by array_position(array['bad', 'warn', 'ok'], f ->> 'verdict');

select set_setting('{"keep_completed_seconds": null, "archive": null, "keep_archive_months": null}');
