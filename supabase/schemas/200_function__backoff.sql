-- Seconds until the next attempt: exponential from base, at most cap, then 20 % jitter both ways so
-- that jobs which failed together do not come back together.
create function picture_queue._backoff(p_attempt integer, p_base real, p_cap real) returns real
language sql volatile set search_path = ''
as $$
  -- 2^30 seconds is beyond any cap; the bound keeps the power from overflowing.
  select (least(p_base * 2 ^ least(greatest(p_attempt, 1) - 1, 30), p_cap) * (0.8 + 0.4 * random()))::real
$$;
