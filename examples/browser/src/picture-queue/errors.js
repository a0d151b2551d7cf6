/**
 * What went wrong. `name` says what kind of thing: `Refused` (the database said no, `code` says
 * why), `JobFailed`, `JobCancelled`, `WaitTimeout`.
 */
export class PictureQueueError extends Error {
  /**
   * @param {string} name
   * @param {string} message one sentence, fit to be shown
   * @param {{code?: string | null, detail?: string | null, hint?: string | null,
   *   generation?: import("./generations.js").Generation}} [more]
   *   `code` is stable (`PQ_UNKNOWN_MODEL` …), `detail` names the field and its value, `hint` the
   *   remedy, `generation` is the one that failed or was cancelled
   */
  constructor(name, message, { code = null, detail = null, hint = null, generation } = {}) {
    super(message);
    this.name = name;
    this.code = code;
    this.detail = detail;
    this.hint = hint;
    this.generation = generation;
  }

  /**
   * @param {{code?: string, message: string, details?: string, hint?: string}} error of supabase-js
   */
  static refused(error) {
    // The stable code stands first in the message: "PQ_UNKNOWN_MODEL: no such model".
    const [, code, message] = /^(PQ_\w+): (.*)$/s.exec(error.message) ?? [
      null,
      error.code ?? null,
      error.message,
    ];
    return new PictureQueueError("Refused", message ?? error.message, {
      code,
      detail: error.details,
      hint: error.hint,
    });
  }
}
