import { askOnce, bounded, sleep } from "./ask.js";
import { PictureQueueError } from "./errors.js";
import { hasEnded, readGeneration } from "./generations.js";
import { listen } from "./topic.js";

/** @typedef {import("@supabase/supabase-js").SupabaseClient} SupabaseClient */
/** @typedef {import("./generations.js").Generation} Generation */
/**
 * @typedef {Object} State what an event says, and what the row says
 * @property {string} job_id
 * @property {import("./generations.js").Status} status
 * @property {"scheduled" | "blocked" | "waiting" | "parked" | null} hold
 * @property {number} progress percent
 * @property {string | null} message
 * @property {number} attempt
 * @property {number} version rises with every change
 * @property {string} at
 * @property {string} [error]
 * @property {"socket" | "snapshot" | "poll"} source where it was learnt
 */

const COLUMNS =
  "job_id:id, status, hold, progress, message, attempt, version, at:updated_at, error";
const POLL_CONNECTED = 5_000; // milliseconds between two looks at the row while events come in
const POLL_ALONE = 1_000;
const LAST_LOOK = 15_000; // milliseconds it may take after the time has run out

/**
 * Follows a generation to its end, whatever happens to the network. An event is a hint that may be
 * lost, late, or come twice; the row is the truth, and the end is believed from it alone.
 *
 * @param {SupabaseClient} supabase
 * @param {string} generation_id
 * @param {{onProgress?: (state: State) => void, signal?: AbortSignal, timeout?: number}} [options]
 *   `onProgress` hears of states, each newer than the one before; `signal` ends the following, not
 *   the generation; `timeout` in milliseconds, default 10 minutes
 * @returns {Promise<Generation>} as it ended: completed, failed or cancelled
 * @throws {PictureQueueError} `Refused`, or `WaitTimeout`
 */
export async function follow(
  supabase,
  generation_id,
  { onProgress = () => {}, signal, timeout = 600_000 } = {},
) {
  const limit = bounded(signal, timeout, tookTooLong);
  try {
    return await untilItEnds(supabase, generation_id, onProgress, limit.signal);
  } catch (error) {
    if (!limit.signal.aborted || signal?.aborted) throw error;
    // The device may have slept through it all: nothing is given up without a last look.
    const last = bounded(signal, LAST_LOOK, () => limit.signal.reason);
    const generation = await found(supabase, generation_id, last.signal).finally(last.end);
    if (hasEnded(generation.status)) return generation;
    throw error;
  } finally {
    limit.end();
  }
}

/**
 * @param {SupabaseClient} supabase
 * @param {string} generation_id
 * @param {(state: State) => void} onProgress
 * @param {AbortSignal} signal
 * @returns {Promise<Generation>}
 */
async function untilItEnds(supabase, generation_id, onProgress, signal) {
  let generation = await found(supabase, generation_id, signal);
  if (hasEnded(generation.status)) return generation;
  const { job_id, user_id } = generation;
  const inbox = new Inbox(job_id);
  const leave = listen(supabase, `pq:user:${user_id}`, inbox);
  /** @type {State | undefined} */
  let newest;
  try {
    for (;;) {
      const item = await inbox.next(signal);
      const state = typeof item === "string" ? await look(supabase, job_id, item, signal) : item;
      if (state && state.version > (newest?.version ?? 0)) {
        newest = state;
        onProgress(state);
      }
      if (newest && hasEnded(newest.status)) {
        generation = await found(supabase, generation_id, signal);
        if (hasEnded(generation.status)) return generation;
      }
    }
  } finally {
    leave();
    inbox.close();
  }
}

/**
 * @param {SupabaseClient} supabase
 * @param {string} generation_id
 * @param {AbortSignal} signal
 */
async function found(supabase, generation_id, signal) {
  const generation = await readGeneration(supabase, generation_id, signal);
  if (generation) return generation;
  throw new PictureQueueError("Refused", "no such generation", {
    code: "PQ_UNKNOWN_GENERATION",
    detail: `generation_id is ${generation_id}`,
  });
}

/**
 * @param {SupabaseClient} supabase
 * @param {string} job_id
 * @param {"snapshot" | "poll"} source
 * @param {AbortSignal} signal
 * @returns {Promise<State | null>} null: no answer this time, or the job was pruned
 */
async function look(supabase, job_id, source, signal) {
  const answer = await askOnce(
    supabase,
    (signal) => {
      const row = supabase.from("job_queue").select(COLUMNS).eq("id", job_id).abortSignal(signal);
      // We repeat it ourselves, sooner.
      return (row.retry?.(false) ?? row).maybeSingle();
    },
    signal,
  );
  return answer?.data ? { ...answer.data, source } : null;
}

const tookTooLong = () =>
  new PictureQueueError("WaitTimeout", "The generation did not end in time", {
    hint: "It goes on; follow it again",
  });

/** What there is to look at next: an event, or the reason to look at the row. */
class Inbox {
  /** @type {(State | "snapshot" | "poll")[]} */
  #items = ["snapshot"];
  #wake = () => {};
  #connected = false;
  #lookNow = () => this.#put("poll");

  /** @param {string} job_id */
  constructor(job_id) {
    this.job_id = job_id;
    globalThis.addEventListener?.("online", this.#lookNow);
  }

  close() {
    globalThis.removeEventListener?.("online", this.#lookNow);
  }

  joined() {
    this.#connected = true;
    this.#put("snapshot"); // what happened before is not told
  }

  lost() {
    this.#connected = false;
    this.#put("poll");
  }

  /** @param {any} payload */
  message(payload) {
    if (payload?.job_id === this.job_id) this.#put({ ...payload, source: "socket" });
  }

  /** @param {AbortSignal} signal */
  async next(signal) {
    if (!this.#items.length) {
      const pause = this.#connected ? POLL_CONNECTED : POLL_ALONE;
      await sleep(pause, signal, (wake) => (this.#wake = wake));
    }
    return this.#items.shift() ?? "poll";
  }

  /** @param {State | "snapshot" | "poll"} item */
  #put(item) {
    this.#items.push(item);
    this.#wake();
  }
}
