begin;
select plan(2);

select set_queue('keyed');
select enqueue_job('a', queue => 'keyed', user_id => gen_random_uuid(), options => '{"limit_keys": ["model:x", "disk"]}');
select enqueue_job('b', queue => 'keyed');

-- For speed, a claim computes the keys in place. They must equal those of _limit_keys, which set_limit uses.
select is((c).keys, picture_queue._limit_keys(j.queue, j.job_type, j.user_id, j.limit_keys), j.job_type)
from unnest(picture_queue._pick(
  row('w', '{keyed}', null, 10, 30, gen_random_uuid(), null, false, false, true, null)::picture_queue.claim,
  '{keyed}', null, 10)) c
join job_queue j on j.id = (c).id order by j.job_type;

select * from finish();
rollback;
