import { createClient } from "@supabase/supabase-js";

/** Your project, or the embedded stack: `npm start` puts the values in. */
export const supabase = createClient(
  import.meta.env.VITE_SUPABASE_URL,
  import.meta.env.VITE_SUPABASE_PUBLISHABLE_KEY,
);
