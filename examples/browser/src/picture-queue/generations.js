import { sendRequest } from "./retry.js";

/** @typedef {import("@supabase/supabase-js").SupabaseClient} SupabaseClient */
/** @typedef {"pending" | "processing" | "completed" | "failed" | "cancelled"} Status */
/**
 * @typedef {Object} Image
 * @property {number} n counts from 1
 * @property {string} path in the bucket `pictures`
 * @property {string | null} url signed, valid for an hour; null if the file does not exist
 * @property {string} mime_type
 * @property {number | null} width
 * @property {number | null} height
 */
/**
 * @typedef {Object} Generation
 * @property {string} id
 * @property {string} user_id
 * @property {string} job_id
 * @property {string | null} batch_id of a batch or a chain
 * @property {string} kind
 * @property {string} model_id
 * @property {string} prompt
 * @property {Status} status
 * @property {string | null} error
 * @property {number | null} cost_usd the reserved cost; after the end the actual cost
 * @property {boolean} cost_is_estimate
 * @property {string} created_at
 * @property {string | null} finished_at
 * @property {Image[]} images
 */

const COLUMNS =
  "id, user_id, job_id, batch_id, kind, model_id, prompt, status, error, cost_usd, " +
  "cost_is_estimate, created_at, finished_at, " +
  "images (n, path, mime_type, width, height)";
const URL_LIFETIME = 3600; // seconds
const ENDED = ["completed", "failed", "cancelled"];

/** @param {string} status */
export const hasEnded = (status) => ENDED.includes(status);

/**
 * Reads a generation with its images.
 *
 * @param {SupabaseClient} supabase
 * @param {string} generation_id
 * @param {AbortSignal} signal
 * @returns {Promise<Generation | null>} null: it does not exist, or belongs to another user
 */
export async function readGeneration(supabase, generation_id, signal) {
  const row = await sendRequest(
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
 * Lists the user's generations with their images.
 *
 * @param {SupabaseClient} supabase
 * @param {{limit?: number, signal?: AbortSignal}} [options]
 * @returns {Promise<Generation[]>} newest first
 */
export async function listGenerations(supabase, { limit = 12, signal = neverAborted() } = {}) {
  const rows = await sendRequest(
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
 * Reads generations with their images.
 *
 * @param {SupabaseClient} supabase
 * @param {string[]} ids up to 100
 * @param {AbortSignal} signal
 * @returns {Promise<Generation[]>}
 */
export async function readGenerations(supabase, ids, signal) {
  if (!ids.length) return [];
  const rows = await sendRequest(
    supabase,
    (signal) =>
      supabase
        .from("generations")
        .select(COLUMNS)
        .in("id", ids)
        .order("n", { referencedTable: "images" })
        .abortSignal(signal),
    signal,
  );
  return withUrls(supabase, rows, signal);
}

/**
 * Adds signed URLs to the images of rows, since the bucket is private.
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
  const signed = await sendRequest(supabase, () => bucket.createSignedUrls(paths, URL_LIFETIME), signal);
  const urls = new Map(paths.map((path, index) => [path, signed[index].signedUrl || null]));
  return rows.map((row) => ({
    ...row,
    images: row.images.map((/** @type {Image} */ image) => ({
      ...image,
      url: urls.get(image.path),
    })),
  }));
}

/** Returns a signal that is never aborted. */
export const neverAborted = () => new AbortController().signal;
