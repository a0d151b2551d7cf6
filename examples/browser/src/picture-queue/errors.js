/**
 * An error of picture-queue. `name` is `Refused`, `JobFailed`, `JobCancelled` or `WaitTimeout`. `Refused`
 * means that the database refused the call; `code` is the error code.
 */
export class PictureQueueError extends Error {
  /**
   * @param {string} name
   * @param {string} message one sentence for the user
   * @param {{code?: string | null, detail?: string | null, hint?: string | null,
   *   generation?: import("./generations.js").Generation}} [more]
   *   `code` is stable (`PQ_UNKNOWN_MODEL` …), `detail` names the field and its value, `hint` the
   *   remedy, `generation` is the failed or cancelled generation
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
   * Returns the error for a refused call.
   *
   * @param {{code?: string, message: string, details?: string, hint?: string}} error of supabase-js
   */
  static refused(error) {
    // The message begins with the stable code: "PQ_UNKNOWN_MODEL: no such model".
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
