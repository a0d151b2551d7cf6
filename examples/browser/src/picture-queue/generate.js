import { supabase } from "../supabase.js";
import { sendRequest, withTimeout } from "./retry.js";
import { PictureQueueError } from "./errors.js";
import { follow } from "./follow.js";

/** @typedef {import("./follow.js").State} State */
/** @typedef {import("./generations.js").Generation} Generation */
/** @typedef {{signal?: AbortSignal, timeout?: number}} Options `timeout` in milliseconds */
/** @typedef {(state: Partial<State> & {generation_id: string}) => void} OnProgress */
/**
 * @typedef {Object} GenerationRequest
 * @property {string} prompt
 * @property {string} [model_id] default: the default model of the project
 * @property {Object} [input] other inputs of the model: `{aspect_ratio: "16:9"}`
 * @property {string} [generation_id] your own uuid; with it a repeated call starts
 *   no second generation
 */

const CALL_TIMEOUT = 60_000; // milliseconds for a call, with its retries

/**
 * Starts a generation and follows it to its end.
 *
 * @param {GenerationRequest} request
 * @param {OnProgress} [onProgress] is called at once, then with each newer state
 * @param {Options} [options] `signal` ends the wait; to end the generation, cancel it
 * @returns {Promise<Generation>} completed, with its images
 * @throws {PictureQueueError} `Refused` with its `code`, `JobFailed`, `JobCancelled`, `WaitTimeout`
 */
export async function generateWithRealtime(
  { prompt, model_id, input, generation_id = newId() },
  onProgress = () => {},
  { signal, timeout } = {},
) {
  onProgress({ generation_id, status: "pending", progress: 0, message: null });
  await call("start_generation", { prompt, model_id, input, options: { generation_id } }, signal);
  return resumeGeneration(generation_id, onProgress, { signal, timeout });
}

/**
 * Follows a generation in progress, for example after a reload of the page.
 *
 * @param {string} generation_id
 * @param {OnProgress} [onProgress]
 * @param {Options} [options]
 * @returns {Promise<Generation>}
 * @throws {PictureQueueError}
 */
export async function resumeGeneration(generation_id, onProgress = () => {}, options = {}) {
  const generation = await follow(supabase, generation_id, {
    onProgress: (state) => onProgress({ generation_id, ...state }),
    ...options,
  });
  if (generation.status === "completed") return generation;
  if (generation.status === "cancelled")
    throw new PictureQueueError("JobCancelled", "The generation was cancelled", { generation });
  const message = generation.error ?? "The generation failed";
  throw new PictureQueueError("JobFailed", message, { generation });
}

/**
 * Cancels a generation: a pending one at once, a running one soon.
 *
 * @param {string} generation_id
 * @returns {Promise<{status: string, cancel_requested: boolean}>}
 * @throws {PictureQueueError} `Refused`: `PQ_FINISHED_JOB`, `PQ_UNKNOWN_GENERATION` …
 */
export function cancelGeneration(generation_id) {
  return call("cancel_generation", { generation_id });
}

/**
 * Lists the enabled models.
 *
 * @param {{signal?: AbortSignal}} [options]
 * @returns {Promise<{model_id: string, kind: string, inputs: any[], default: boolean,
 *   typical_seconds: number | null, price_usd_per_image: number | null}[]>}
 */
export function listModels({ signal } = {}) {
  return call("list_models", {}, signal);
}

/**
 * Calls an SQL function, with retries.
 *
 * @param {string} name
 * @param {Object} params
 * @param {AbortSignal} [signal]
 */
async function call(name, params, signal) {
  const timeoutError = () =>
    new PictureQueueError("WaitTimeout", "The project does not answer", {
      hint: "The call may have been executed; check before you repeat it",
    });
  const limit = withTimeout(signal, CALL_TIMEOUT, timeoutError);
  try {
    const request = (/** @type {AbortSignal} */ signal) =>
      supabase.rpc(name, params).abortSignal(signal);
    return await sendRequest(supabase, request, limit.signal);
  } finally {
    limit.end();
  }
}

/** Returns a random uuid; `crypto.randomUUID` is missing on pages served over plain http. */
function newId() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6] & 0x0f) | 0x40;
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  const hex = [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, "$1-$2-$3-$4-$5");
}
