-- What is kept, and for how long; null puts a default back.
select set_setting('{"keep_completed_seconds": 86400, "archive": true, "keep_archive_months": 3}');

-- One of the workers does the maintenance, and pg_cron where it is installed. This runs a round now.
select maintain_jobs(force => true);

-- What the doctor has to say, the worst first.
select f ->> 'verdict' as verdict, f ->> 'check' as "check", f ->> 'detail' as detail, f ->> 'remedy' as remedy
from jsonb_array_elements(queue_doctor(client_time => now())) as f
order by array_position(array['bad', 'warn', 'ok'], f ->> 'verdict');

select set_setting('{"keep_completed_seconds": null, "archive": null, "keep_archive_months": null}');
