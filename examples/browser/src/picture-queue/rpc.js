import { supabase } from "../supabase.js";
import { PictureQueueError } from "./errors.js";
import { sendRequest, withTimeout } from "./retry.js";

const CALL_TIMEOUT = 60_000; // milliseconds for a call, with its retries

/**
 * Calls an SQL function, with retries.
 *
 * @param {string} name
 * @param {Object} params
 * @param {AbortSignal} [signal]
 */
export async function call(name, params, signal) {
  const timeoutError = () =>
    new PictureQueueError("WaitTimeout", "The project does not answer", {
      hint: "The call may have been executed; check before you repeat it",
    });
  const limit = withTimeout(signal, CALL_TIMEOUT, timeoutError);
  try {
    const request = (/** @type {AbortSignal} */ signal) =>
      supabase.rpc(name, params).abortSignal(signal);
    return await sendRequest(supabase, request, limit.signal);
  } finally {
    limit.end();
  }
}

/** Returns a random uuid; `crypto.randomUUID` is missing on pages served over plain http. */
export function newId() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6] & 0x0f) | 0x40;
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  const hex = [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, "$1-$2-$3-$4-$5");
}
