-- Users can read their own rows and write none: functions make all changes.
create policy "picture_queue: read own jobs" on public.job_queue
  for select to authenticated using ((select auth.uid()) = user_id);
create policy "picture_queue: read own generations" on public.generations
  for select to authenticated using ((select auth.uid()) = user_id and not deleted);
create policy "picture_queue: read own images" on public.images
  for select to authenticated using ((select auth.uid()) = user_id and not deleted);
