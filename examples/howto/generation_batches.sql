-- Offer the models of the example, whose pictures a function of the worker makes.
insert into picture_queue.model (model_id, provider, kind, inputs)
values
  ('my/paint', 'paint', 'text-to-image', '[
    {"name": "prompt", "type": "string", "required": true},
    {"name": "seed", "type": "integer"}
  ]'),
  ('my/enlarge', 'paint', 'upscale', '[{"name": "image", "type": "string", "format": "uri", "required": true}]'),
  ('my/cut-out', 'paint', 'background-removal', '[{"name": "image", "type": "string", "format": "uri", "required": true}]')
on conflict (model_id) do update set inputs = excluded.inputs;
