-- Offer a model whose pictures a function of your worker makes. The inputs are checked before a job is enqueued.
select set_model('my/gradient', '{
  "provider": "pillow",
  "kind": "text-to-image",
  "typical_seconds": 0.2,
  "inputs": [
    {"name": "prompt", "type": "string", "required": true},
    {"name": "width", "type": "integer", "minimum": 16, "maximum": 1024},
    {"name": "height", "type": "integer", "minimum": 16, "maximum": 1024}
  ]
}');
