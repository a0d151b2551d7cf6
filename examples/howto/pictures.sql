-- List the newest pictures. The paths are relative to the bucket pictures.
select g.prompt, i.n, i.path, i.thumbnail_path, i.blurhash, i.width, i.height, i.bytes
from images i join generations g on g.id = i.generation_id
order by i.created_at desc limit 20;

-- List the pictures that were made and could not be stored.
select g.id, m ->> 'n' as n, m ->> 'reason' as reason
from generations g cross join jsonb_array_elements(g.missing_images) m
order by g.created_at desc;

-- List pictures that were stored more than once.
select sha256, count(*) from images group by sha256 having count(*) > 1;

-- Keep the metadata of pictures; null resets the setting.
select set_setting('{"strip_metadata": false}');
select set_setting('{"strip_metadata": null}');
