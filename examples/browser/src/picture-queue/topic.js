/** @typedef {import("@supabase/supabase-js").SupabaseClient} SupabaseClient */
/** @typedef {import("@supabase/supabase-js").RealtimeChannel} RealtimeChannel */
/**
 * @typedef {Object} Listener
 * @property {() => void} joined the topic is heard from now on; what came before is not told
 * @property {() => void} lost it is not heard any more; `joined` follows when it is back
 * @property {(payload: any) => void} message an event of a job
 */

const FIRST_PAUSE = 500; // milliseconds between a channel the server closed and the next, doubling
const LONGEST_PAUSE = 10_000;

/** @type {WeakMap<SupabaseClient, Map<string, Topic>>} */
const topics = new WeakMap();

/**
 * Hears of a private topic. All listeners of a client share one channel of a topic, because
 * supabase-js has one: `supabase.channel(name)` returns it again to whoever asks.
 *
 * @param {SupabaseClient} supabase
 * @param {string} name
 * @param {Listener} listener
 * @returns {() => void} ends it
 */
export function listen(supabase, name, listener) {
  const known = topics.get(supabase) ?? new Map();
  topics.set(supabase, known);
  const topic = known.get(name) ?? new Topic(supabase, name);
  known.set(name, topic);
  topic.add(listener);
  return () => topic.remove(listener);
}

class Topic {
  /** @type {Set<Listener>} */
  #listeners = new Set();
  /** @type {RealtimeChannel | null} */
  #channel = null;
  #joined = false;
  #pause = FIRST_PAUSE;
  #turn = Promise.resolve();

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
    this.#settle();
  }

  /** @param {Listener} listener */
  remove(listener) {
    this.#listeners.delete(listener);
    this.#settle();
  }

  /** Joins where somebody listens and leaves where nobody does: one after the other, as a channel
   * that is still leaving cannot be joined. */
  #settle() {
    this.#turn = this.#turn
      .then(async () => {
        if (this.#listeners.size && !this.#channel) await this.#join();
        if (!this.#listeners.size && this.#channel) await this.#leave(this.#channel);
      })
      .catch(() => this.#settleLater());
  }

  #settleLater() {
    setTimeout(() => this.#settle(), this.#pause);
    this.#pause = Math.min(this.#pause * 2, LONGEST_PAUSE);
  }

  async #join() {
    // A private channel is joined with the user's token, and this is how it gets there.
    await this.supabase.realtime.setAuth();
    const channel = this.supabase.channel(this.name, { config: { private: true } });
    this.#channel = channel;
    channel.on("broadcast", { event: "job" }, ({ payload }) => {
      for (const listener of this.#listeners) listener.message(payload);
    });
    channel.subscribe((status) => {
      if (channel === this.#channel) this.#changed(status);
    });
  }

  /** @param {RealtimeChannel} channel */
  async #leave(channel) {
    this.#channel = null;
    this.#joined = false;
    await this.supabase.removeChannel(channel);
  }

  /** @param {string} status */
  #changed(status) {
    const was = this.#joined;
    this.#joined = status === "SUBSCRIBED";
    if (this.#joined) {
      this.#pause = FIRST_PAUSE;
      for (const listener of this.#listeners) listener.joined();
      return;
    }
    if (was) for (const listener of this.#listeners) listener.lost();
    if (status === "CLOSED") {
      // By the server, as when the token ran out: supabase-js does not join again by itself.
      this.#channel = null;
      this.#settleLater();
    } else {
      // It does now. If the token was the trouble, it does so with the one of that moment.
      this.supabase.realtime.setAuth();
    }
  }
}
