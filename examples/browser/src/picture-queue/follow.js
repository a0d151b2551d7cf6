import { tryRequest, withTimeout, sleep } from "./retry.js";
import { PictureQueueError } from "./errors.js";
import { hasEnded, readGeneration } from "./generations.js";
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
const POLL_WITH_EVENTS = 5_000; // milliseconds between two reads of the row on a joined channel
const POLL_WITHOUT_EVENTS = 1_000; // milliseconds between two reads of the row otherwise
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
  { onProgress = () => {}, signal, timeout = 600_000 } = {},
) {
  const limit = withTimeout(signal, timeout, timeoutError);
  try {
    return await followToEnd(supabase, generation_id, onProgress, limit.signal);
  } catch (error) {
    if (!limit.signal.aborted || signal?.aborted) throw error;
    // The device may have been suspended until the timeout, so the row is read once more.
    const last = withTimeout(signal, LAST_READ_TIMEOUT, () => limit.signal.reason);
    const generation = await getGeneration(supabase, generation_id, last.signal).finally(last.end);
    if (hasEnded(generation.status)) return generation;
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
  const inbox = new Inbox(job_id);
  const unsubscribe = listen(supabase, `pq:user:${user_id}`, inbox);
  /** @type {State | undefined} */
  let newest;
  try {
    for (;;) {
      const item = await inbox.next(signal);
      const state = typeof item === "string" ? await readState(supabase, job_id, item, signal) : item;
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

/** A queue of events, and of requests to read the row ("snapshot" or "poll"). */
class Inbox {
  /** @type {(State | "snapshot" | "poll")[]} */
  #items = ["snapshot"];
  #wake = () => {};
  #connected = false;
  #pollNow = () => this.#put("poll");

  /** @param {string} job_id */
  constructor(job_id) {
    this.job_id = job_id;
    globalThis.addEventListener?.("online", this.#pollNow);
  }

  close() {
    globalThis.removeEventListener?.("online", this.#pollNow);
  }

  joined() {
    this.#connected = true;
    this.#put("snapshot"); // earlier events are not sent again
  }

  lost() {
    this.#connected = false;
    this.#put("poll");
  }

  /** @param {any} payload */
  message(payload) {
    if (payload?.job_id === this.job_id) this.#put({ ...payload, source: "socket" });
  }

  /**
   * Returns the next item; "poll" if none arrives in time.
   *
   * @param {AbortSignal} signal
   */
  async next(signal) {
    if (!this.#items.length) {
      const delay = this.#connected ? POLL_WITH_EVENTS : POLL_WITHOUT_EVENTS;
      await sleep(delay, signal, (wake) => (this.#wake = wake));
    }
    return this.#items.shift() ?? "poll";
  }

  /** @param {State | "snapshot" | "poll"} item */
  #put(item) {
    this.#items.push(item);
    this.#wake();
  }
}
