-- Creates the private buckets of the pictures and of uploaded files if the project has Supabase Storage, and policies:
-- users can read their own folder in both buckets, and write to their own folder in the bucket uploads. A picture of a
-- generation becomes readable with its row in images. A trigger limits the number of files that a user uploads.
do $do$
begin
  if picture_queue._find_table('storage.buckets', true) is null then
    return;
  end if;
  execute $sql$
    insert into storage.buckets (id, name, public) values ('pictures', 'pictures', false) on conflict do nothing;
    insert into storage.buckets (id, name, public, file_size_limit, allowed_mime_types)
    values ('uploads', 'uploads', false, 10485760, '{image/png,image/jpeg,image/webp}') on conflict do nothing;
    create policy "picture_queue: read own pictures" on storage.objects
      for select to authenticated
      using (bucket_id in ('pictures', 'uploads') and (storage.foldername(name))[1] = (select auth.uid())::text
        and (bucket_id = 'uploads' or picture_queue.may_read_picture(name)));
    create policy "picture_queue: upload to own folder" on storage.objects
      for insert to authenticated
      with check (bucket_id = 'uploads' and (storage.foldername(name))[1] = (select auth.uid())::text
        and (select picture_queue.may_upload()));
    create policy "picture_queue: replace own uploads" on storage.objects
      for update to authenticated
      using (bucket_id = 'uploads' and (storage.foldername(name))[1] = (select auth.uid())::text)
      with check (bucket_id = 'uploads' and (storage.foldername(name))[1] = (select auth.uid())::text);
    create policy "picture_queue: delete own uploads" on storage.objects
      for delete to authenticated
      using (bucket_id = 'uploads' and (storage.foldername(name))[1] = (select auth.uid())::text);
  $sql$;
  -- The platform grants postgres this privilege on the table, which belongs to Storage. A role without it installs
  -- the rest, and the doctor reports the missing trigger.
  if has_table_privilege('storage.objects', 'trigger') then
    execute $sql$
      create or replace trigger picture_queue_limit_uploads
        before insert or update of bucket_id, name on storage.objects
        for each row when (new.bucket_id = 'uploads' and starts_with(new.name, new.owner_id || '/'))
        execute function picture_queue._limit_uploads();
    $sql$;
  end if;
end
$do$;
