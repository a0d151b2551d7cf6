-- Creates the private bucket of the pictures if the project has Supabase Storage, and a policy that lets users read
-- their own folder in it.
do $do$
begin
  if picture_queue._find_table('storage.buckets', true) is null then
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
