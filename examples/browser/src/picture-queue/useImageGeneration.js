import { useCallback, useEffect, useRef, useState } from "react";
import { cancelGeneration, generateWithRealtime, resumeGeneration } from "./generate.js";

/** @typedef {import("./generate.js").Wish} Wish */
/** @typedef {import("./generate.js").OnProgress} OnProgress */
/** @typedef {import("./generate.js").Options} Options */
/** @typedef {import("./generations.js").Generation} Generation */
/** @typedef {import("./errors.js").PictureQueueError} PictureQueueError */
/**
 * @typedef {Object} ImageGeneration
 * @property {string | null} generation_id
 * @property {import("./generations.js").Status | null} status null: nothing was asked for yet
 * @property {number} progress percent
 * @property {string | null} message
 * @property {import("./generations.js").Image[]} images
 * @property {PictureQueueError | null} error
 * @property {boolean} running
 * @property {boolean} started the project has it: it can be cancelled
 */

/** @type {ImageGeneration} */
const NOTHING = {
  generation_id: null,
  status: null,
  progress: 0,
  message: null,
  images: [],
  error: null,
  running: false,
  started: false,
};

/**
 * One generation at a time, as state of a component. Starting or resuming another one leaves the
 * first alone, and so does unmounting: it goes on, and can be resumed.
 */
export function useImageGeneration() {
  const [state, setState] = useState(NOTHING);
  const following = useRef(/** @type {AbortController | null} */ (null));

  useEffect(() => () => following.current?.abort(), []);

  const run = useCallback(
    /** @param {(onProgress: OnProgress, options: Options) => Promise<Generation>} begin */
    async (begin) => {
      following.current?.abort();
      const { signal } = (following.current = new AbortController());
      const change = (/** @type {Partial<ImageGeneration>} */ part) => {
        if (!signal.aborted) setState((state) => ({ ...state, ...part }));
      };
      setState({ ...NOTHING, running: true });
      try {
        const { id, status, images } = await begin(
          ({ generation_id, status, progress, message, version = 0 }) =>
            change({ generation_id, status, progress, message, started: version > 0 }),
          { signal },
        );
        change({ generation_id: id, status, images, progress: 100, running: false });
      } catch (thrown) {
        const error = /** @type {PictureQueueError} */ (thrown);
        setState((state) => {
          if (signal.aborted) return state;
          // After WaitTimeout the last known status stands; a refusal has none.
          const known = error.name === "WaitTimeout" ? state.status : null;
          return { ...state, error, running: false, status: error.generation?.status ?? known };
        });
      }
    },
    [],
  );

  const start = useCallback(
    /** @param {Wish} wish */
    (wish) => run((onProgress, options) => generateWithRealtime(wish, onProgress, options)),
    [run],
  );
  const resume = useCallback(
    /** @param {string} id */
    (id) => run((onProgress, options) => resumeGeneration(id, onProgress, options)),
    [run],
  );
  const cancel = useCallback(async () => {
    if (!state.generation_id) return;
    try {
      await cancelGeneration(state.generation_id);
    } catch (thrown) {
      const error = /** @type {PictureQueueError} */ (thrown);
      // Too late: it has ended, and the end is on its way here.
      if (error.code !== "PQ_FINISHED_JOB") setState((state) => ({ ...state, error }));
    }
  }, [state.generation_id]);

  return { ...state, start, resume, cancel };
}
