-- Offer the model of the example, whose pictures a function of the worker makes.
insert into picture_queue.model (model_id, provider, kind, typical_seconds, inputs)
values ('my/flat', 'flat', 'text-to-image', 0.1, '[
  {"name": "prompt", "type": "string", "required": true},
  {"name": "seed", "type": "integer"}
]')
on conflict (model_id) do update set inputs = excluded.inputs;
