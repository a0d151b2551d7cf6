import { sleep } from "./retry.js";

/** @typedef {import("./follow.js").State} State */

const POLL_WITH_EVENTS = 5_000; // milliseconds between two reads on a joined channel
const POLL_WITHOUT_EVENTS = 1_000; // milliseconds between two reads otherwise

/** A queue of the events of some jobs, and of requests to read their rows ("snapshot" or "poll"). */
export class Inbox {
  /** @type {(State | "snapshot" | "poll")[]} */
  #items = ["snapshot"];
  #wake = () => {};
  #connected = false;
  #pollNow = () => this.#put("poll");

  /** @param {string[]} job_ids */
  constructor(job_ids) {
    this.job_ids = new Set(job_ids);
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
    if (this.job_ids.has(payload?.job_id)) this.#put({ ...payload, source: "socket" });
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

  /** Removes all items; a read of the rows follows, which is newer. */
  clear() {
    this.#items = [];
  }

  /** @param {State | "snapshot" | "poll"} item */
  #put(item) {
    this.#items.push(item);
    this.#wake();
  }
}
