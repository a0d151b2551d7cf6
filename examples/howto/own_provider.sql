-- Offer a model whose pictures a function of your worker makes. The inputs are checked before a job is enqueued.
insert into picture_queue.model (model_id, provider, kind, typical_seconds, inputs)
values ('my/gradient', 'pillow', 'text-to-image', 0.2, '[
  {"name": "prompt", "type": "string", "required": true},
  {"name": "width", "type": "integer", "minimum": 16, "maximum": 1024},
  {"name": "height", "type": "integer", "minimum": 16, "maximum": 1024}
]')
on conflict (model_id) do update set inputs = excluded.inputs;
