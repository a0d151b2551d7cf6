import { hasEnded } from "./generations.js";
import { sleep } from "./retry.js";
import { call } from "./rpc.js";

const DELAY = 2_000; // milliseconds before a wait is explained, and between two explanations

/**
 * @typedef {Object} Wait
 * @property {string} reason `no_worker`, `queue_paused`, `limit`, `waiting_for_worker` …
 * @property {string} detail
 * @property {string | null} until the time at which it ends, if it is known
 * @property {number} [position] in the queue, from 1
 * @property {boolean} [at_least] there are more jobs before it than were counted
 */

/**
 * Returns why a job does not run.
 *
 * @param {string} job_id
 * @param {AbortSignal} [signal]
 * @returns {Promise<Wait>}
 */
export async function explainWait(job_id, signal) {
  const [wait] = await call("explain_jobs", { job_ids: [job_id] }, signal);
  if (wait.reason !== "waiting_for_worker") return wait;
  return { ...wait, ...(await call("job_position", { job_id }, signal)) };
}

/**
 * Explains a wait every two seconds, until the signal is aborted.
 *
 * @param {() => string | null | undefined} getJob returns the id of the job that waits; null: none
 * @param {(wait: Wait | null) => void} onWait
 * @param {AbortSignal} signal
 */
export async function watchWait(getJob, onWait, signal) {
  while (!signal.aborted) {
    try {
      await sleep(DELAY, signal);
      const job_id = getJob();
      const wait = job_id ? await explainWait(job_id, signal) : null;
      // The job may have started meanwhile.
      if (!signal.aborted) onWait(job_id === getJob() ? wait : null);
    } catch {
      // The explanation is only help: without an answer there is none, until the next attempt.
    }
  }
}

/**
 * Returns the job whose wait is worth an explanation: of a batch the first one that has not ended,
 * if none runs.
 *
 * @param {any} state
 * @returns {string | null}
 */
export function findWaitingJob({ status, job_id, generations }) {
  if (!generations) return status === "pending" ? (job_id ?? null) : null;
  const open = generations.filter((/** @type {any} */ generation) => !hasEnded(generation.status));
  return open.length && open.every((/** @type {any} */ g) => g.status === "pending")
    ? open[0].job_id
    : null;
}
