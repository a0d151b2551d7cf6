import { PictureQueueError } from "./errors.js";
import { hasEnded, readGeneration } from "./generations.js";
import { Inbox } from "./inbox.js";
import { tryRequest, withTimeout } from "./retry.js";
import { listen } from "./topic.js";

/** @typedef {import("@supabase/supabase-js").SupabaseClient} SupabaseClient */
/** @typedef {import("./generations.js").Generation} Generation */
/**
 * @typedef {Object} State the visible state of a job, from an event or from the row
 * @property {string} job_id
 * @property {import("./generations.js").Status} status
 * @property {"scheduled" | "blocked" | "waiting" | "parked" | null} hold
 * @property {number} progress percent
 * @property {string | null} message
 * @property {number} attempt
 * @property {number} version rises with every change
 * @property {string} at
 * @property {string} [error]
 * @property {"socket" | "snapshot" | "poll"} source "socket": an event; "snapshot": a read
 *   when the wait starts or the channel is joined; "poll": another read of the row
 */

const COLUMNS =
  "job_id:id, status, hold, progress, message, attempt, version, at:updated_at, error";
const LAST_READ_TIMEOUT = 15_000; // milliseconds for the last read, after the timeout

/**
 * Follows a generation to its end, even if the network fails meanwhile. Events may be lost, late or
 * duplicated, so the final state is taken from the row only.
 *
 * @param {SupabaseClient} supabase
 * @param {string} generation_id
 * @param {{onProgress?: (state: State) => void, signal?: AbortSignal, timeout?: number}} [options]
 *   `onProgress` gets each newer state; `signal` ends the wait, not the generation; `timeout` is in
 *   milliseconds, default 10 minutes
 * @returns {Promise<Generation>} the completed, failed or cancelled generation
 * @throws {PictureQueueError} `Refused`, or `WaitTimeout`
 */
export async function follow(
  supabase,
  generation_id,
  { onProgress = () => {}, signal, timeout } = {},
) {
  return followUntil(
    (signal) => followToEnd(supabase, generation_id, onProgress, signal),
    (signal) => getGeneration(supabase, generation_id, signal),
    { signal, timeout },
  );
}

/**
 * Follows something to its end, with a timeout.
 *
 * @template {{status: string}} T
 * @param {(signal: AbortSignal) => Promise<T>} followToEnd
 * @param {(signal: AbortSignal) => Promise<T>} read is called once more after the timeout
 * @param {{signal?: AbortSignal, timeout?: number}} options
 * @returns {Promise<T>}
 * @throws {PictureQueueError} `Refused`, or `WaitTimeout`
 */
export async function followUntil(followToEnd, read, { signal, timeout = 600_000 }) {
  const limit = withTimeout(signal, timeout, timeoutError);
  try {
    return await followToEnd(limit.signal);
  } catch (error) {
    if (!limit.signal.aborted || signal?.aborted) throw error;
    // The device may have been suspended until the timeout, so the row is read once more.
    const last = withTimeout(signal, LAST_READ_TIMEOUT, () => limit.signal.reason);
    const value = await read(last.signal).finally(last.end);
    if (hasEnded(value.status)) return value;
    throw error;
  } finally {
    limit.end();
  }
}

/**
 * Follows a generation without a timeout.
 *
 * @param {SupabaseClient} supabase
 * @param {string} generation_id
 * @param {(state: State) => void} onProgress
 * @param {AbortSignal} signal
 * @returns {Promise<Generation>}
 */
async function followToEnd(supabase, generation_id, onProgress, signal) {
  let generation = await getGeneration(supabase, generation_id, signal);
  if (hasEnded(generation.status)) return generation;
  const { job_id, user_id } = generation;
  const inbox = new Inbox([job_id]);
  const unsubscribe = listen(supabase, `pq:user:${user_id}`, inbox);
  /** @type {State | undefined} */
  let newest;
  try {
    for (;;) {
      const item = await inbox.next(signal);
      const state =
        typeof item === "string" ? await readState(supabase, job_id, item, signal) : item;
      if (state && state.version > (newest?.version ?? 0)) {
        newest = state;
        onProgress(state);
      }
      if (newest && hasEnded(newest.status)) {
        generation = await getGeneration(supabase, generation_id, signal);
        if (hasEnded(generation.status)) return generation;
      }
    }
  } finally {
    unsubscribe();
    inbox.close();
  }
}

/**
 * Returns a generation.
 *
 * @param {SupabaseClient} supabase
 * @param {string} generation_id
 * @param {AbortSignal} signal
 * @throws {PictureQueueError} `Refused`: there is no such generation
 */
async function getGeneration(supabase, generation_id, signal) {
  const generation = await readGeneration(supabase, generation_id, signal);
  if (generation) return generation;
  throw new PictureQueueError("Refused", "no such generation", {
    code: "PQ_UNKNOWN_GENERATION",
    detail: `generation_id is ${generation_id}`,
  });
}

/**
 * Reads the state of a job from its row.
 *
 * @param {SupabaseClient} supabase
 * @param {string} job_id
 * @param {"snapshot" | "poll"} source
 * @param {AbortSignal} signal
 * @returns {Promise<State | null>} null: no answer, or the job was pruned
 */
async function readState(supabase, job_id, source, signal) {
  const answer = await tryRequest(
    supabase,
    (signal) => {
      const row = supabase.from("job_queue").select(COLUMNS).eq("id", job_id).abortSignal(signal);
      // The retries of supabase-js are off, because the next poll comes sooner.
      return (row.retry?.(false) ?? row).maybeSingle();
    },
    signal,
  );
  return answer?.data ? { ...answer.data, source } : null;
}

const timeoutError = () =>
  new PictureQueueError("WaitTimeout", "The generation did not end in time", {
    hint: "It continues; follow it again",
  });
