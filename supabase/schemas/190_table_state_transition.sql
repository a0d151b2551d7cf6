-- The state machine: an action moves a job from one state to another. An action that has no row for the state of the
-- job does nothing. attempt_delta: a claim adds one to the attempts; an action that ends the attempt for a reason
-- outside of the job subtracts it again.
create table picture_queue.state_transition (
  action text not null,
  from_status text not null,
  from_hold text,
  to_status text not null,
  to_hold text,
  attempt_delta integer not null default 0,
  unique nulls not distinct (action, from_status, from_hold),
  constraint status_is_known
    check (to_status in ('pending', 'processing', 'completed', 'failed', 'cancelled')),
  constraint hold_fits_status check (
    to_hold is null
    or (to_status = 'pending' and to_hold in ('scheduled', 'blocked', 'waiting'))
    or (to_status = 'processing' and to_hold = 'parked')
  )
);
comment on table picture_queue.state_transition is 'The permitted changes of state; read by _transition.';

insert into picture_queue.state_transition (action, from_status, from_hold, to_status, to_hold, attempt_delta) values
  ('claim',    'pending',    null,        'processing', null,         1),
  ('complete', 'processing', null,        'completed',  null,         0),
  ('fail',     'processing', null,        'failed',     null,         0),
  ('back_off', 'processing', null,        'pending',    'scheduled',  0),  -- retry after an error
  ('expire',   'processing', null,        'pending',    null,         0),  -- the lease expired
  ('snooze',   'processing', null,        'pending',    'scheduled', -1),
  ('release',  'processing', null,        'pending',    null,        -1),
  ('park',     'processing', null,        'processing', 'parked',     0),
  ('wake',     'processing', 'parked',    'pending',    null,        -1),  -- the attempt that parked is not counted
  ('promote',  'pending',    'scheduled', 'pending',    null,         0),
  ('delay',    'pending',    null,        'pending',    'scheduled',  0),  -- a debounce or a replacement
  ('delay',    'pending',    'scheduled', 'pending',    'scheduled',  0),
  ('delay',    'pending',    'blocked',   'pending',    'scheduled',  0),
  ('block',    'pending',    null,        'pending',    'blocked',    0),  -- a limit key of the job has no capacity
  ('unblock',  'pending',    'blocked',   'pending',    null,         0),
  ('ready',    'pending',    'waiting',   'pending',    null,         0),  -- its parents have finished
  ('wait',     'pending',    null,        'pending',    'waiting',    0),  -- retried before its parents have finished
  ('await',    'pending',    'waiting',   'pending',    'scheduled',  0),  -- its parents have finished; it is not due
  ('abandon',  'pending',    null,        'failed',     null,         0),  -- expired, or a parent failed
  ('abandon',  'pending',    'scheduled', 'failed',     null,         0),
  ('abandon',  'pending',    'blocked',   'failed',     null,         0),
  ('abandon',  'pending',    'waiting',   'failed',     null,         0),
  ('cancel',   'pending',    null,        'cancelled',  null,         0),
  ('cancel',   'pending',    'scheduled', 'cancelled',  null,         0),
  ('cancel',   'pending',    'blocked',   'cancelled',  null,         0),
  ('cancel',   'pending',    'waiting',   'cancelled',  null,         0),
  ('cancel',   'processing', null,        'cancelled',  null,         0),
  ('retry',    'failed',     null,        'pending',    null,         0),
  ('retry',    'cancelled',  null,        'pending',    null,         0);
