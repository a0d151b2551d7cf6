import { useCallback, useEffect, useRef, useState } from "react";
import { cancelBatch, followBatch, generateBatchWithRealtime } from "./batches.js";
import { cancelGeneration, generateWithRealtime, resumeGeneration } from "./generate.js";
import { findWaitingJob, watchWait } from "./waiting.js";

/** @typedef {import("./generate.js").GenerationRequest} GenerationRequest */
/** @typedef {import("./generate.js").Options} Options */
/** @typedef {import("./batches.js").BatchRequest} BatchRequest */
/** @typedef {import("./errors.js").PictureQueueError} PictureQueueError */
/**
 * @typedef {Object} ImageGeneration
 * @property {string | null} generation_id null: none, or a batch
 * @property {string | null} batch_id of a batch or chain
 * @property {import("./generations.js").Status | null} status null: nothing was started yet
 * @property {number} progress percent, of the whole
 * @property {string | null} message
 * @property {import("./generations.js").Image[]} images of a single generation
 * @property {import("./batches.js").BatchGeneration[]} generations of a batch or chain, with their images
 * @property {number | null} cost_usd reserved; after the end the actual cost
 * @property {boolean} cost_is_estimate
 * @property {import("./waiting.js").Wait | null} wait why it does not run yet
 * @property {PictureQueueError | null} error
 * @property {boolean} running
 * @property {boolean} started the database has the generation, so it can be cancelled
 */

/** @type {ImageGeneration} */
const INITIAL_STATE = {
  generation_id: null,
  batch_id: null,
  status: null,
  progress: 0,
  message: null,
  images: [],
  generations: [],
  cost_usd: null,
  cost_is_estimate: false,
  wait: null,
  error: null,
  running: false,
  started: false,
};

/**
 * One generation, or one batch or chain, as state of a component. If the component starts or
 * resumes another one, or unmounts, the first one continues and can be resumed later.
 */
export function useImageGeneration() {
  const [state, setState] = useState(INITIAL_STATE);
  const following = useRef(/** @type {AbortController | null} */ (null));

  useEffect(() => () => following.current?.abort(), []);

  const run = useCallback(
    /** @param {(change: (part: any) => void, options: Options) => Promise<any>} begin */
    async (begin) => {
      following.current?.abort();
      const { signal } = (following.current = new AbortController());
      const waiting = new AbortController();
      /** @type {Partial<ImageGeneration> & {job_id?: string}} */
      let latest = {};
      const change = (/** @type {any} */ part) => {
        latest = findWaitingJob(part) ? part : { ...part, wait: null };
        const known = pick(latest);
        if (!signal.aborted) setState((state) => ({ ...state, ...known }));
      };
      setState({ ...INITIAL_STATE, running: true });
      watchWait(
        () => findWaitingJob(latest),
        (wait) => change({ ...latest, wait }),
        waiting.signal,
      );
      try {
        const ended = await begin(change, { signal });
        const generation_id = ended.batch_id && ended.generations ? null : ended.id;
        change({ ...ended, generation_id, progress: 100, running: false });
      } catch (thrown) {
        const error = /** @type {PictureQueueError} */ (thrown);
        setState((state) => {
          if (signal.aborted) return state;
          // After WaitTimeout the last known status is kept. After a refused start it is null.
          const known = error.name === "WaitTimeout" ? state.status : null;
          const status = error.generation?.status ?? known;
          return { ...state, error, running: false, wait: null, status };
        });
      } finally {
        waiting.abort();
      }
    },
    [],
  );

  /** A list of requests is a batch, a request with `then` a chain. */
  const start = useCallback(
    /** @param {GenerationRequest | BatchRequest | BatchRequest[]} request */
    (request) =>
      run((change, options) =>
        Array.isArray(request) || "then" in request
          ? generateBatchWithRealtime([request].flat(), onBatch(change), options)
          : generateWithRealtime(request, onGeneration(change), options),
      ),
    [run],
  );
  const resume = useCallback(
    /** @param {string} id */
    (id) => run((change, options) => resumeGeneration(id, onGeneration(change), options)),
    [run],
  );
  const resumeBatch = useCallback(
    /** @param {string} id */
    (id) => run((change, options) => followBatch(id, onBatch(change), options)),
    [run],
  );
  const cancel = useCallback(async () => {
    if (!state.generation_id && !state.batch_id) return;
    try {
      if (state.generation_id) await cancelGeneration(state.generation_id);
      else await cancelBatch(/** @type {string} */ (state.batch_id));
    } catch (thrown) {
      const error = /** @type {PictureQueueError} */ (thrown);
      // If the generation has already ended, the hook is about to receive its final state.
      if (error.code !== "PQ_FINISHED_JOB") setState((state) => ({ ...state, error }));
    }
  }, [state.generation_id, state.batch_id]);

  return { ...state, start, resume, resumeBatch, cancel };
}

/** @param {(part: any) => void} change */
const onGeneration = (change) => (/** @type {any} */ state) =>
  change({ ...state, started: (state.version ?? 0) > 0 });

/** @param {(part: any) => void} change */
const onBatch = (change) => (/** @type {any} */ state) =>
  change({ ...state, started: Boolean(state.total) });

/** Returns the fields of the hook's state. @param {any} part @returns {Partial<ImageGeneration>} */
const pick = (part) =>
  Object.fromEntries(
    Object.entries(part).filter(([name]) => name in INITIAL_STATE && name !== "error"),
  );
