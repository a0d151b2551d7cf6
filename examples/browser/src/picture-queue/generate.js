import { supabase } from "../supabase.js";
import { PictureQueueError } from "./errors.js";
import { follow } from "./follow.js";
import { call, newId } from "./rpc.js";

/** @typedef {import("./follow.js").State} State */
/** @typedef {import("./generations.js").Generation} Generation */
/** @typedef {{signal?: AbortSignal, timeout?: number}} Options `timeout` in milliseconds */
/** @typedef {(state: Partial<State> & {generation_id: string}) => void} OnProgress */
/**
 * @typedef {Object} GenerationRequest
 * @property {string} prompt
 * @property {string} [model_id] default: the default model of the project
 * @property {Object} [input] other inputs of the model: `{aspect_ratio: "16:9"}`
 * @property {string} [kind] for a model that does several: `"image-edit"`; default: the first kind
 *   of the model
 * @property {string} [generation_id] your own uuid; with it a repeated call starts
 *   no second generation
 */

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
  { prompt, model_id, input, kind, generation_id = newId() },
  onProgress = () => {},
  { signal, timeout } = {},
) {
  onProgress({ generation_id, status: "pending", progress: 0, message: null });
  const options = { generation_id, kind };
  await call("start_generation", { prompt, model_id, input, options }, signal);
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
 * Lists the models that the user can use.
 *
 * @param {{signal?: AbortSignal}} [options]
 * @returns {Promise<import("./models.js").Model[]>}
 */
export function listModels({ signal } = {}) {
  return call("list_models", {}, signal);
}
