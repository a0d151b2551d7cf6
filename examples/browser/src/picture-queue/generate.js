import { supabase } from "../supabase.js";
import { ask, bounded } from "./ask.js";
import { PictureQueueError } from "./errors.js";
import { follow } from "./follow.js";

/** @typedef {import("./follow.js").State} State */
/** @typedef {import("./generations.js").Generation} Generation */
/** @typedef {{signal?: AbortSignal, timeout?: number}} Options `timeout` in milliseconds */
/** @typedef {(state: Partial<State> & {generation_id: string}) => void} OnProgress */
/**
 * @typedef {Object} Wish
 * @property {string} prompt
 * @property {string} [model_id] the project's default if left out
 * @property {Object} [input] what the model takes beside the prompt: `{aspect_ratio: "16:9"}`
 * @property {string} [generation_id] a uuid of yours; repeating it gives the same generation
 */

const ANSWER_WITHIN = 60_000; // milliseconds until a start or a cancel has to be answered

/**
 * Asks for a picture and follows it to its end.
 *
 * @param {Wish} wish
 * @param {OnProgress} [onProgress] is called at once, then with each newer state
 * @param {Options} [options] `signal` ends the following; to end the generation, cancel it
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
 * Follows a generation that is under way, as after a reload of the page.
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
  const why = generation.error ?? "The generation failed";
  throw new PictureQueueError("JobFailed", why, { generation });
}

/**
 * Cancels a generation: at once while it waits, soon if it runs. Whoever follows it hears of it.
 *
 * @param {string} generation_id
 * @returns {Promise<{status: string, cancel_requested: boolean}>}
 * @throws {PictureQueueError} `Refused`: `PQ_FINISHED_JOB`, `PQ_UNKNOWN_GENERATION` …
 */
export function cancelGeneration(generation_id) {
  return call("cancel_generation", { generation_id });
}

/**
 * @param {{signal?: AbortSignal}} [options]
 * @returns {Promise<{model_id: string, kind: string, inputs: any[], default: boolean,
 *   typical_seconds: number | null, price_usd_per_image: number | null}[]>} the models on offer
 */
export function listModels({ signal } = {}) {
  return call("list_models", {}, signal);
}

/**
 * @param {string} name
 * @param {Object} params
 * @param {AbortSignal} [signal]
 */
async function call(name, params, signal) {
  const noAnswer = () =>
    new PictureQueueError("WaitTimeout", "The project does not answer", {
      hint: "Look whether it was done before you repeat it",
    });
  const limit = bounded(signal, ANSWER_WITHIN, noAnswer);
  try {
    const request = (/** @type {AbortSignal} */ signal) =>
      supabase.rpc(name, params).abortSignal(signal);
    return await ask(supabase, request, limit.signal);
  } finally {
    limit.end();
  }
}

/** A random uuid; `crypto.randomUUID` is missing where a page comes over plain http. */
function newId() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6] & 0x0f) | 0x40;
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  const hex = [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, "$1-$2-$3-$4-$5");
}
