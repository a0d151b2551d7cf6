import { supabase } from "../supabase.js";
import { followUntil } from "./follow.js";
import { hasEnded, readGenerations } from "./generations.js";
import { Inbox } from "./inbox.js";
import { sendRequest, sleep } from "./retry.js";
import { call, newId } from "./rpc.js";
import { listen } from "./topic.js";

/** @typedef {import("./generate.js").Options} Options */
/** @typedef {import("./generate.js").GenerationRequest} GenerationRequest */
/** @typedef {import("./generations.js").Generation} Generation */
/** @typedef {import("./generations.js").Status} Status */
/**
 * A generation to start. `then` makes a chain: each step gets the picture of the step before, and
 * names a model or a kind.
 *
 * @typedef {Omit<GenerationRequest, "generation_id"> & {
 *   then?: {kind?: string, model_id?: string, prompt?: string, input?: Object}[]}} BatchRequest
 */
/**
 * @typedef {Object} BatchGeneration
 * @property {string} id
 * @property {string} job_id
 * @property {string} kind
 * @property {Status} status
 * @property {string | null} hold
 * @property {number} progress percent
 * @property {string | null} message
 * @property {string | null} error
 * @property {number} position of its request in the call, from 0
 * @property {number} step in the chain of its request, from 0
 * @property {import("./generations.js").Image[]} images
 */
/**
 * @typedef {Object} Batch
 * @property {string} batch_id
 * @property {Status} status of the whole
 * @property {number} progress percent of the whole; it never decreases
 * @property {number} total
 * @property {number} completed
 * @property {number} failed
 * @property {number} cancelled
 * @property {number | null} cost_usd the reserved cost; after the end the actual cost
 * @property {BatchGeneration[]} generations in the order of the requests and their steps
 */

const MIN_DELAY = 300; // milliseconds between two reads, however many events arrive

/**
 * Starts generations, all or none, and follows them to the end of the last one.
 *
 * @param {BatchRequest[]} requests 1 to 100; one request with `then` is a chain
 * @param {(batch: Partial<Batch> & {batch_id: string}) => void} [onProgress] is called at once, then
 *   with each newer state
 * @param {Options & {batch_id?: string}} [options] `batch_id`: your own uuid; with it a repeated
 *   call starts nothing a second time
 * @returns {Promise<Batch>} completed, failed or cancelled: read the status of each generation
 * @throws {import("./errors.js").PictureQueueError} `Refused` with its `code`, or `WaitTimeout`
 */
export async function generateBatchWithRealtime(
  requests,
  onProgress = () => {},
  { batch_id = newId(), signal, timeout } = {},
) {
  onProgress({ batch_id, status: "pending", progress: 0, generations: [] });
  await call("start_generations", { requests, options: { batch_id } }, signal);
  return followBatch(batch_id, onProgress, { signal, timeout });
}

/**
 * Follows a batch or chain to the end of its last generation, for example after a reload.
 *
 * @param {string} batch_id
 * @param {(batch: Batch) => void} [onProgress]
 * @param {Options} [options]
 * @returns {Promise<Batch>}
 * @throws {import("./errors.js").PictureQueueError} `Refused`, or `WaitTimeout`
 */
export function followBatch(batch_id, onProgress = () => {}, options = {}) {
  const reader = new BatchReader(batch_id);
  return followUntil(
    (signal) => followToEnd(reader, onProgress, signal),
    (signal) => reader.read(signal),
    options,
  );
}

/**
 * Cancels all generations of a batch or chain that have not ended. The call can be repeated.
 *
 * @param {string} batch_id
 * @returns {Promise<{total: number, cancelled: number, cancel_requested: number}>}
 * @throws {import("./errors.js").PictureQueueError} `Refused`: `PQ_UNKNOWN_BATCH` …
 */
export function cancelBatch(batch_id) {
  return call("cancel_generation_batch", { batch_id });
}

/**
 * Follows a batch without a timeout. An event only says that something has changed: the state is
 * always what `generation_batch` returns. Without events it is read every few seconds.
 *
 * @param {BatchReader} reader
 * @param {(batch: Batch) => void} onProgress
 * @param {AbortSignal} signal
 * @returns {Promise<Batch>}
 */
async function followToEnd(reader, onProgress, signal) {
  let batch = await reader.read(signal);
  onProgress(batch);
  if (hasEnded(batch.status)) return batch;
  const inbox = new Inbox(batch.generations.map(({ job_id }) => job_id));
  const unsubscribe = listen(supabase, `pq:user:${batch.user_id}`, inbox);
  try {
    for (;;) {
      await inbox.next(signal);
      inbox.clear(); // one read answers all events so far
      batch = await reader.read(signal);
      onProgress(batch);
      if (hasEnded(batch.status)) return batch;
      await sleep(MIN_DELAY, signal);
    }
  } finally {
    unsubscribe();
    inbox.close();
  }
}

/** Reads a batch, and the images of each generation once. */
class BatchReader {
  #progress = 0;
  /** @type {Map<string, Generation>} by id */
  #completed = new Map();

  /** @param {string} batch_id */
  constructor(batch_id) {
    this.batch_id = batch_id;
  }

  /**
   * @param {AbortSignal} signal
   * @returns {Promise<Batch & {user_id: string}>}
   */
  async read(signal) {
    /** @type {Batch & {user_id: string}} */
    const batch = await sendRequest(
      supabase,
      (signal) => supabase.rpc("generation_batch", { batch_id: this.batch_id }).abortSignal(signal),
      signal,
    );
    const generations = batch.generations.map((row) => this.#makeGeneration(row));
    const missing = generations.filter(
      ({ id, status }) => status === "completed" && !this.#completed.has(id),
    );
    const ids = missing.map(({ id }) => id);
    for (const row of await readGenerations(supabase, ids, signal))
      this.#completed.set(row.id, row);
    this.#progress = Math.max(this.#progress, batch.progress); // a retry makes it lower
    return {
      ...batch,
      progress: this.#progress,
      generations: generations.map((generation) => ({
        ...generation,
        images: this.#completed.get(generation.id)?.images ?? [],
      })),
    };
  }

  /** @param {any} row @returns {BatchGeneration} */
  #makeGeneration({ generation_id, ...row }) {
    return { id: generation_id, images: [], ...row };
  }
}
