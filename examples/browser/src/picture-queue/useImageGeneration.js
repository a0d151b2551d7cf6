import { useCallback, useEffect, useRef, useState } from "react";
import { cancelGeneration, generateWithRealtime, resumeGeneration } from "./generate.js";

/** @typedef {import("./generate.js").GenerationRequest} GenerationRequest */
/** @typedef {import("./generate.js").OnProgress} OnProgress */
/** @typedef {import("./generate.js").Options} Options */
/** @typedef {import("./generations.js").Generation} Generation */
/** @typedef {import("./errors.js").PictureQueueError} PictureQueueError */
/**
 * @typedef {Object} ImageGeneration
 * @property {string | null} generation_id
 * @property {import("./generations.js").Status | null} status null: no generation was started yet
 * @property {number} progress percent
 * @property {string | null} message
 * @property {import("./generations.js").Image[]} images
 * @property {PictureQueueError | null} error
 * @property {boolean} running
 * @property {boolean} started the database has the generation, so it can be cancelled
 */

/** @type {ImageGeneration} */
const INITIAL_STATE = {
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
 * One generation as state of a component. If the component starts or resumes another generation, or
 * unmounts, the first generation continues and can be resumed later.
 */
export function useImageGeneration() {
  const [state, setState] = useState(INITIAL_STATE);
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
      setState({ ...INITIAL_STATE, running: true });
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
          // After WaitTimeout the last known status is kept. After a refused start it is null.
          const known = error.name === "WaitTimeout" ? state.status : null;
          return { ...state, error, running: false, status: error.generation?.status ?? known };
        });
      }
    },
    [],
  );

  const start = useCallback(
    /** @param {GenerationRequest} request */
    (request) => run((onProgress, options) => generateWithRealtime(request, onProgress, options)),
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
      // If the generation has already ended, the hook is about to receive its final state.
      if (error.code !== "PQ_FINISHED_JOB") setState((state) => ({ ...state, error }));
    }
  }, [state.generation_id]);

  return { ...state, start, resume, cancel };
}
