import { createClient } from "@supabase/supabase-js";

/** The client of your project or of the embedded stack. `npm start` sets the two values. */
export const supabase = createClient(
  import.meta.env.VITE_SUPABASE_URL,
  import.meta.env.VITE_SUPABASE_PUBLISHABLE_KEY,
);
