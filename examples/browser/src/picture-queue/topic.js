/** @typedef {import("@supabase/supabase-js").SupabaseClient} SupabaseClient */
/** @typedef {import("@supabase/supabase-js").RealtimeChannel} RealtimeChannel */
/**
 * @typedef {Object} Listener
 * @property {() => void} joined the channel is joined; earlier events are not sent again
 * @property {() => void} lost the channel is lost; `joined` follows when it is joined again
 * @property {(payload: any) => void} message an event of a job
 */

const FIRST_DELAY = 500; // milliseconds before a closed channel is joined again; doubled each time
const MAX_DELAY = 10_000; // milliseconds

/** @type {WeakMap<SupabaseClient, Map<string, Topic>>} */
const topics = new WeakMap();

/**
 * Subscribes to a private topic. All listeners of a client share one channel for a topic, because
 * supabase-js returns the same channel from each call of `supabase.channel(name)`.
 *
 * @param {SupabaseClient} supabase
 * @param {string} name
 * @param {Listener} listener
 * @returns {() => void} ends the subscription
 */
export function listen(supabase, name, listener) {
  const known = topics.get(supabase) ?? new Map();
  topics.set(supabase, known);
  const topic = known.get(name) ?? new Topic(supabase, name);
  known.set(name, topic);
  topic.add(listener);
  return () => topic.remove(listener);
}

/** A topic with its listeners, and a channel while there are listeners. */
class Topic {
  /** @type {Set<Listener>} */
  #listeners = new Set();
  /** @type {RealtimeChannel | null} */
  #channel = null;
  #joined = false;
  #delay = FIRST_DELAY;
  #lastUpdate = Promise.resolve();

  /**
   * @param {SupabaseClient} supabase
   * @param {string} name
   */
  constructor(supabase, name) {
    this.supabase = supabase;
    this.name = name;
  }

  /** @param {Listener} listener */
  add(listener) {
    this.#listeners.add(listener);
    if (this.#joined) listener.joined();
    this.#updateChannel();
  }

  /** @param {Listener} listener */
  remove(listener) {
    this.#listeners.delete(listener);
    this.#updateChannel();
  }

  /** Joins the channel if there are listeners, and leaves it if there are none. Updates run one
   * after the other, because a channel that is being left cannot be joined. */
  #updateChannel() {
    this.#lastUpdate = this.#lastUpdate
      .then(async () => {
        if (this.#listeners.size && !this.#channel) await this.#join();
        if (!this.#listeners.size && this.#channel) await this.#leave(this.#channel);
      })
      .catch(() => this.#updateLater());
  }

  #updateLater() {
    setTimeout(() => this.#updateChannel(), this.#delay);
    this.#delay = Math.min(this.#delay * 2, MAX_DELAY);
  }

  async #join() {
    // Gives Realtime the user's token, with which it joins a private channel.
    await this.supabase.realtime.setAuth();
    const channel = this.supabase.channel(this.name, { config: { private: true } });
    this.#channel = channel;
    channel.on("broadcast", { event: "job" }, ({ payload }) => {
      for (const listener of this.#listeners) listener.message(payload);
    });
    channel.subscribe((status) => {
      if (channel === this.#channel) this.#onStatus(status);
    });
  }

  /** @param {RealtimeChannel} channel */
  async #leave(channel) {
    this.#channel = null;
    this.#joined = false;
    await this.supabase.removeChannel(channel);
  }

  /** @param {string} status */
  #onStatus(status) {
    const wasJoined = this.#joined;
    this.#joined = status === "SUBSCRIBED";
    if (this.#joined) {
      this.#delay = FIRST_DELAY;
      for (const listener of this.#listeners) listener.joined();
      return;
    }
    if (wasJoined) for (const listener of this.#listeners) listener.lost();
    if (status === "CLOSED") {
      // The server closed the channel, for example because the token expired. supabase-js does not
      // rejoin such a channel.
      this.#channel = null;
      this.#updateLater();
    } else {
      // supabase-js rejoins the channel. setAuth gives it the current token for that.
      this.supabase.realtime.setAuth();
    }
  }
}
