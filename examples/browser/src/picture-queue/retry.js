import { PictureQueueError } from "./errors.js";

/** @typedef {import("@supabase/supabase-js").SupabaseClient} SupabaseClient */
/** @typedef {{data: any, error: any, status?: number}} Answer */

const REQUEST_TIMEOUT = 10_000; // milliseconds
const FIRST_DELAY = 250; // milliseconds
const MAX_DELAY = 5_000; // milliseconds

/**
 * Sends a request until there is an answer. The request must be safe to repeat, because an earlier
 * request may have been executed although its answer was lost.
 *
 * @param {SupabaseClient} supabase
 * @param {(signal: AbortSignal) => PromiseLike<Answer>} request
 * @param {AbortSignal} signal ends the retries
 * @param {number} [timeout] milliseconds for each attempt
 * @returns {Promise<any>} `data`
 * @throws {PictureQueueError} `Refused`
 */
export async function sendRequest(supabase, request, signal, timeout) {
  for (let delay = FIRST_DELAY; ; delay = Math.min(delay * 2, MAX_DELAY)) {
    const answer = await tryRequest(supabase, request, signal, timeout);
    if (answer) return answer.data;
    await sleep(delay, signal);
  }
}

/**
 * Sends a request once.
 *
 * @param {SupabaseClient} supabase
 * @param {(signal: AbortSignal) => PromiseLike<Answer>} request
 * @param {AbortSignal} signal
 * @param {number} [timeout] milliseconds
 * @returns {Promise<{data: any} | null>} null: no answer, or an error that a retry may resolve
 * @throws {PictureQueueError} `Refused`
 */
export async function tryRequest(supabase, request, signal, timeout = REQUEST_TIMEOUT) {
  const limit = withTimeout(signal, timeout);
  try {
    const answer = await Promise.race([request(limit.signal), aborted(limit.signal)]);
    if (!answer.error) return { data: answer.data };
    const status = answer.status ?? answer.error.status ?? 0; // Storage has it in the error
    if (isLimit(answer.error)) throw PictureQueueError.refused(answer.error);
    if (status === 0 || status === 408 || status === 429 || status >= 500) return null;
    if (isTokenRefused(status, answer.error) && (await renewToken(supabase))) return null;
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
 * Limits of the user have status 429. The refusal says when the call may succeed, so it is not
 * repeated before. PQ_BUSY and the 429 of a gateway are repeated.
 *
 * @param {{message?: string}} error
 */
const isLimit = ({ message }) => /^PQ_(RATE_LIMITED|OVER_BUDGET|NO_CREDIT):/.test(message ?? "");

/**
 * @param {number} status
 * @param {{statusCode?: string}} error Storage has the status of a refused token in `statusCode`
 */
const isTokenRefused = (status, { statusCode }) => status === 401 || statusCode === "403";

/**
 * Renews a refused token. It expired while the page was suspended, or the clock of the device is
 * wrong.
 *
 * @param {SupabaseClient} supabase
 * @returns {Promise<boolean>} true if there is a new token, or if a later attempt may get one
 */
async function renewToken(supabase) {
  try {
    const { error } = await supabase.auth.refreshSession();
    return !error || !error.status || error.status >= 500;
  } catch {
    return false; // a client with the option `accessToken` has no session to renew
  }
}

/**
 * Returns a signal that is aborted when the given signal is aborted, or after a timeout.
 *
 * @param {AbortSignal | undefined} signal
 * @param {number} milliseconds
 * @param {() => Error} [reason] creates the error of the timeout
 * @returns {{signal: AbortSignal, end: () => void}} `end` releases the timer
 */
export function withTimeout(signal, milliseconds, reason) {
  signal?.throwIfAborted();
  const controller = new AbortController();
  const forward = () => controller.abort(signal?.reason);
  const timer = setTimeout(() => controller.abort(reason?.()), milliseconds);
  signal?.addEventListener("abort", forward);
  return {
    signal: controller.signal,
    end() {
      clearTimeout(timer);
      signal?.removeEventListener("abort", forward);
    },
  };
}

/**
 * Waits for a time.
 *
 * @param {number} milliseconds
 * @param {AbortSignal} signal ends the wait with an error
 * @param {(wake: () => void) => void} [receiveWake] gets a function that ends the wait early
 */
export async function sleep(milliseconds, signal, receiveWake) {
  const limit = withTimeout(signal, milliseconds);
  const woken = new Promise((resolve) => receiveWake?.(() => resolve(undefined)));
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
 * @returns {Promise<never>} rejects when the signal is aborted
 */
function aborted(signal) {
  return new Promise((_, reject) => {
    signal.addEventListener("abort", () => reject(signal.reason), { once: true });
  });
}
