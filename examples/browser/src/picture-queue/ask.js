import { PictureQueueError } from "./errors.js";

/** @typedef {import("@supabase/supabase-js").SupabaseClient} SupabaseClient */
/** @typedef {{data: any, error: any, status?: number}} Answer */

const ANSWER_WITHIN = 10_000; // milliseconds
const FIRST_PAUSE = 250;
const LONGEST_PAUSE = 5_000;

/**
 * Asks until there is an answer: a request that was lost is made again, and so is one whose answer
 * was lost. Every request made here may be repeated.
 *
 * @param {SupabaseClient} supabase
 * @param {(signal: AbortSignal) => PromiseLike<Answer>} request
 * @param {AbortSignal} signal ends it; nothing else does while there is no answer
 * @returns {Promise<any>} `data`
 * @throws {PictureQueueError} `Refused`
 */
export async function ask(supabase, request, signal) {
  for (let pause = FIRST_PAUSE; ; pause = Math.min(pause * 2, LONGEST_PAUSE)) {
    const answer = await askOnce(supabase, request, signal);
    if (answer) return answer.data;
    await sleep(pause, signal);
  }
}

/**
 * @param {SupabaseClient} supabase
 * @param {(signal: AbortSignal) => PromiseLike<Answer>} request
 * @param {AbortSignal} signal
 * @returns {Promise<{data: any} | null>} null: no answer, the next time may do
 * @throws {PictureQueueError} `Refused`
 */
export async function askOnce(supabase, request, signal) {
  const limit = bounded(signal, ANSWER_WITHIN);
  try {
    const answer = await Promise.race([request(limit.signal), aborted(limit.signal)]);
    if (!answer.error) return { data: answer.data };
    const status = answer.status ?? answer.error.status ?? 0; // Storage has it in the error
    if (status === 0 || status === 408 || status === 429 || status >= 500) return null;
    if (tokenRefused(status, answer.error) && (await renewToken(supabase))) return null;
    throw PictureQueueError.refused(answer.error);
  } catch (error) {
    signal.throwIfAborted();
    if (limit.signal.aborted) return null;
    throw error;
  } finally {
    limit.end();
  }
}

/**
 * @param {number} status
 * @param {{statusCode?: string}} error
 */
const tokenRefused = (status, { statusCode }) => status === 401 || statusCode === "403"; // of Storage

/**
 * A token is refused that ran out while the page slept, or whose end the device's clock does not
 * show. Returns whether there is a new one, or may be one later.
 *
 * @param {SupabaseClient} supabase
 */
async function renewToken(supabase) {
  try {
    const { error } = await supabase.auth.refreshSession();
    return !error || !error.status || error.status >= 500;
  } catch {
    return false; // a client with an `accessToken` of its own: there is nothing to renew
  }
}

/**
 * A signal that is aborted with another one, or after some time.
 *
 * @param {AbortSignal | undefined} signal
 * @param {number} milliseconds
 * @param {() => Error} [reason]
 * @returns {{signal: AbortSignal, end: () => void}} call `end` when it is not needed any more
 */
export function bounded(signal, milliseconds, reason) {
  signal?.throwIfAborted();
  const controller = new AbortController();
  const pass = () => controller.abort(signal?.reason);
  const timer = setTimeout(() => controller.abort(reason?.()), milliseconds);
  signal?.addEventListener("abort", pass);
  return {
    signal: controller.signal,
    end() {
      clearTimeout(timer);
      signal?.removeEventListener("abort", pass);
    },
  };
}

/**
 * @param {number} milliseconds
 * @param {AbortSignal} signal
 * @param {(wake: () => void) => void} [onWake] is given what ends the sleep early
 */
export async function sleep(milliseconds, signal, onWake) {
  const limit = bounded(signal, milliseconds);
  const woken = new Promise((resolve) => onWake?.(() => resolve(undefined)));
  try {
    await Promise.race([woken, aborted(limit.signal)]);
  } catch {
    signal.throwIfAborted();
  } finally {
    limit.end();
  }
}

/**
 * @param {AbortSignal} signal
 * @returns {Promise<never>} rejects when it is aborted
 */
function aborted(signal) {
  return new Promise((_, reject) => {
    signal.addEventListener("abort", () => reject(signal.reason), { once: true });
  });
}
