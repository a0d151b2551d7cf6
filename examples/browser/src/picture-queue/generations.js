import { ask } from "./ask.js";

/** @typedef {import("@supabase/supabase-js").SupabaseClient} SupabaseClient */
/** @typedef {"pending" | "processing" | "completed" | "failed" | "cancelled"} Status */
/**
 * @typedef {Object} Image
 * @property {number} n counts from 1
 * @property {string} path in the bucket `pictures`
 * @property {string | null} url signed, good for an hour; null if the file is gone
 * @property {string} mime_type
 * @property {number | null} width
 * @property {number | null} height
 */
/**
 * @typedef {Object} Generation
 * @property {string} id
 * @property {string} user_id
 * @property {string} job_id
 * @property {string} model_id
 * @property {string} prompt
 * @property {Status} status
 * @property {string | null} error
 * @property {string} created_at
 * @property {string | null} finished_at
 * @property {Image[]} images
 */

const COLUMNS =
  "id, user_id, job_id, model_id, prompt, status, error, created_at, finished_at, " +
  "images (n, path, mime_type, width, height)";
const URLS_LAST = 3600; // seconds
const ENDED = ["completed", "failed", "cancelled"];

/** @param {string} status */
export const hasEnded = (status) => ENDED.includes(status);

/**
 * @param {SupabaseClient} supabase
 * @param {string} generation_id
 * @param {AbortSignal} signal
 * @returns {Promise<Generation | null>} null: there is none, or it is somebody else's
 */
export async function readGeneration(supabase, generation_id, signal) {
  const row = await ask(
    supabase,
    (signal) =>
      supabase
        .from("generations")
        .select(COLUMNS)
        .eq("id", generation_id)
        .order("n", { referencedTable: "images" })
        .abortSignal(signal)
        .maybeSingle(),
    signal,
  );
  return row && (await withUrls(supabase, [row], signal))[0];
}

/**
 * @param {SupabaseClient} supabase
 * @param {{limit?: number, signal?: AbortSignal}} [options]
 * @returns {Promise<Generation[]>} newest first
 */
export async function listGenerations(supabase, { limit = 12, signal = forever() } = {}) {
  const rows = await ask(
    supabase,
    (signal) =>
      supabase
        .from("generations")
        .select(COLUMNS)
        .order("created_at", { ascending: false })
        .order("n", { referencedTable: "images" })
        .limit(limit)
        .abortSignal(signal),
    signal,
  );
  return withUrls(supabase, rows, signal);
}

/**
 * The bucket is private: an address to show a picture from has to be signed.
 *
 * @param {SupabaseClient} supabase
 * @param {any[]} rows
 * @param {AbortSignal} signal
 * @returns {Promise<Generation[]>}
 */
async function withUrls(supabase, rows, signal) {
  const paths = rows.flatMap((row) => row.images.map((/** @type {Image} */ image) => image.path));
  if (!paths.length) return rows;
  const bucket = supabase.storage.from("pictures");
  const signed = await ask(supabase, () => bucket.createSignedUrls(paths, URLS_LAST), signal);
  const urls = new Map(paths.map((path, at) => [path, signed[at].signedUrl || null]));
  return rows.map((row) => ({
    ...row,
    images: row.images.map((/** @type {Image} */ image) => ({
      ...image,
      url: urls.get(image.path),
    })),
  }));
}

/** A signal that never comes. */
export const forever = () => new AbortController().signal;
