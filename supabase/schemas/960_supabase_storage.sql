-- If the project has Supabase Storage: the private bucket of the pictures, and a policy by which users read their own
-- folder of it.
do $do$
begin
  if to_regclass('storage.buckets') is null then
    return;
  end if;
  execute $sql$
    insert into storage.buckets (id, name, public) values ('pictures', 'pictures', false) on conflict do nothing;
    create policy "picture_queue: read own pictures" on storage.objects
      for select to authenticated
      using (bucket_id = 'pictures' and (storage.foldername(name))[1] = (select auth.uid())::text);
  $sql$;
end
$do$;
