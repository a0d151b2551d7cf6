begin;
select plan(4);

select set_queue('q', '{"fair_share": true}');
select enqueue_job('t', queue => 'q', options => '{"tags": ["night"], "metadata": {"ticket": 7, "x": 1}, "tenant": "acme"}');
select enqueue_job('t', queue => 'q');
select is(jsonb_array_length(list_jobs('{"queue": "q", "tag": "night"}')), 1, 'a tag selects one job');
select is(jsonb_array_length(list_jobs('{"queue": "q", "metadata": {"ticket": 7}}')), 1, 'metadata select one job');
select is(jsonb_array_length(list_jobs('{"tenant": "acme"}')), 1, 'a tenant selects one job');
select is(jsonb_array_length(list_jobs('{"queue": "q", "limit": 1}')), 1, 'a page has at most as many jobs as its limit');

select * from finish();
rollback;
