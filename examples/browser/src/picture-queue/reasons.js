// Plain sentences for the user: why a call was refused, why a generation waits, what it costs.
import { labelOf } from "./models.js";

/** @typedef {{sentence: string, field: string | null, retry_at: Date | null}} Refusal */

/**
 * Describes an error. A refusal by a limit gets the time of the next attempt, an invalid input its
 * field.
 *
 * @param {Error & {code?: string | null, detail?: string | null, hint?: string | null}} error
 * @returns {Refusal} `field`: the name of the invalid input, or "prompt"
 */
export function describeError(error) {
  const detail = error.detail ?? "";
  const describe = SENTENCES[error.code ?? ""];
  const time = /retry_after is [\d.]+ s, at (\S+)$/.exec(detail)?.[1];
  const retry_at = time ? new Date(time) : null;
  const sentence = describe
    ? join([
        describe(detail, error.hint ?? ""),
        retry_at && `You can try again ${describeTime(retry_at)}`,
      ])
    : [error.message, detail, error.hint].filter(Boolean).join(". ");
  const field =
    error.code === "PQ_INVALID_INPUT"
      ? /(?:input\.|^|\.)(\w+) (?:is|has)\b/.exec(detail)?.[1]
      : null;
  return { sentence, field: field ?? null, retry_at };
}

/** @type {Object<string, (detail: string, hint: string) => string>} by the code of the error */
const SENTENCES = {
  PQ_RATE_LIMITED(detail) {
    const [, period, rate] = /per_(minute|hour) is (\d+)/.exec(detail) ?? [];
    if (period)
      return `You can start ${rate} ${rate === "1" ? "generation" : "generations"} each ${period}, and this would be one more`;
    const [, limit] = /max_pending is (\d+)/.exec(detail) ?? [];
    return `At most ${limit} of your generations can wait or run at once. Wait until one has ended, or cancel one`;
  },
  PQ_OVER_BUDGET(detail) {
    const [, period, budget, spent, cost] =
      /usd_per_(day|month) is ([\d.]+), of which ([\d.]+) is spent, and this generation costs ([\d.]+)/.exec(
        detail,
      ) ?? [];
    if (period)
      return `Your budget is ${formatUsd(budget)} a ${period}. ${formatUsd(spent)} of it is spent, and this costs ${formatUsd(cost)}`;
    if (detail.includes("of the project")) return "The budget of this project is used up";
    return "You have a budget, and the cost of this model is not known. Choose a model with a price";
  },
  PQ_NO_CREDIT(detail) {
    const [, credits, cost] =
      /credits_usd is ([\d.]+), and this generation costs ([\d.]+)/.exec(detail) ?? [];
    if (credits)
      return `You have ${formatUsd(credits)} of credits left, and this costs ${formatUsd(cost)}. Buy credits, or choose a cheaper model`;
    return "This needs credits, and the cost of this model is not known. Choose a model with a price";
  },
  PQ_INVALID_INPUT(detail, hint) {
    const suggestion = /^did you mean [^?]+\?/.exec(hint)?.[0];
    const request = /^requests\[(\d+)\][.:] ?/.exec(detail);
    const problem = detail
      .slice(request?.[0].length ?? 0)
      .replace(/input\.(\w+)/, (_, name) => labelOf(name));
    return join([
      `${request ? `Picture ${Number(request[1]) + 1}: ` : ""}${capitalize(problem)}`,
      suggestion,
    ]).slice(0, -1);
  },
  PQ_NOT_ALLOWED: (detail) => `You are not allowed to do this: ${detail}`,
  PQ_NOT_AUTHENTICATED: () => "Your session has ended. Sign in again",
  PQ_BUSY: () => "The project is busy. Try again in a moment",
  PQ_QUEUE_DRAINING: () => "This project accepts no new generations at the moment. Try again later",
};

/**
 * Describes why a generation waits.
 *
 * @param {import("./waiting.js").Wait | null} wait
 * @returns {string} empty: it does not wait
 */
export function describeWait(wait) {
  if (!wait) return "";
  const until = wait.until ? ` ${describeTime(new Date(wait.until))}` : "";
  const describe = WAITS[wait.reason];
  return describe ? describe(until, wait) : join([wait.detail]);
}

/** @type {Object<string, (until: string, wait: import("./waiting.js").Wait) => string>} by reason */
const WAITS = {
  finished: () => "",
  running: () => "",
  no_worker: () => "It waits for a worker: none is running that makes such pictures.",
  no_maintenance: () => "It waits for a worker: none is running.",
  queue_paused: (until) =>
    `The queue is paused. It continues${until || " when the operator resumes it"}.`,
  key_paused: (until) =>
    `This model is paused, or its provider does not answer. It continues${until || " later"}.`,
  limit: (until) =>
    `As many generations run as are allowed. It starts${until || " when one of them has ended"}.`,
  parents: () => "It waits for the picture of the generation before it.",
  retry: (until) => `An attempt failed. The next one starts${until || " soon"}.`,
  scheduled: (until) => `It starts${until || " later"}.`,
  event: () => "",
  waiting_for_worker(_, { position, at_least }) {
    if (!position) return "It waits for a free worker.";
    return position === 1
      ? "It is next in the queue."
      : `It is number ${position}${at_least ? " or later" : ""} in the queue.`;
  },
};

/**
 * Describes a time of today or later, in the language of the browser: "at 14:05:12 (in 35 s)".
 *
 * @param {Date} time
 */
export function describeTime(time, now = new Date()) {
  const seconds = Math.max(0, Math.ceil((time.getTime() - now.getTime()) / 1000));
  if (seconds < 3600) {
    const distance = seconds < 90 ? `${seconds} s` : `${Math.ceil(seconds / 60)} minutes`;
    return `at ${time.toLocaleTimeString()} (in ${distance})`;
  }
  const isToday = time.toDateString() === now.toDateString();
  return isToday ? `at ${time.toLocaleTimeString()}` : `on ${time.toLocaleString()}`;
}

/**
 * Formats an amount with up to four decimals, and at least two: $1.00, $0.003.
 *
 * @param {number | string} usd
 */
export function formatUsd(usd) {
  return `$${Number(usd)
    .toFixed(4)
    .replace(/0{1,2}$/, "")}`;
}

/**
 * Describes what requests are expected to cost.
 *
 * @param {{usd: number, timed: number, unknown: number}} cost
 */
export function describeExpectedCost({ usd, timed, unknown }) {
  const parts = [
    (usd > 0 || !(timed || unknown)) && formatUsd(usd),
    timed && `the computing time of ${timed}`,
    unknown && `${unknown} at an unknown cost`,
  ];
  return `Expected cost: ${parts.filter(Boolean).join(" + ")}`;
}

/**
 * Describes a cost: it is reserved at the start, and settled at the end.
 *
 * @param {{cost_usd?: number | null, cost_is_estimate?: boolean, status: string | null}} generation or batch
 */
export function describeCost({ cost_usd, cost_is_estimate, status }) {
  if (cost_usd === null && status === "completed") return "cost not known";
  if (cost_usd == null) return "";
  if (status === "pending" || status === "processing") return `${formatUsd(cost_usd)} reserved`;
  return `${cost_is_estimate ? "about " : ""}${formatUsd(cost_usd)} paid`;
}

/**
 * Describes the credits and the limits of a user.
 *
 * @param {import("./account.js").Account} account
 */
export function describeAccount({
  credits_usd,
  spent_today_usd,
  spent_this_month_usd,
  pending,
  budget,
}) {
  const left = (/** @type {number} */ limit, /** @type {number} */ spent) =>
    `${formatUsd(Math.max(0, limit - spent))} of ${formatUsd(limit)}`;
  return [
    budget.needs_credits && `${formatUsd(credits_usd)} credits`,
    budget.usd_per_day != null && `${left(budget.usd_per_day, spent_today_usd)} left today`,
    budget.usd_per_month != null &&
      `${left(budget.usd_per_month, spent_this_month_usd)} left this month`,
    budget.per_minute != null && `${budget.per_minute} a minute`,
    budget.per_hour != null && `${budget.per_hour} an hour`,
    budget.max_pending != null && `${pending} of ${budget.max_pending} running`,
    !budget.needs_credits && `${formatUsd(spent_today_usd)} spent today`,
  ]
    .filter(Boolean)
    .join(" · ");
}

/** @param {(string | null | undefined | false)[]} sentences */
const join = (sentences) =>
  sentences
    .filter(Boolean)
    .map((text) => `${capitalize(/** @type {string} */ (text)).replace(/\.$/, "")}`)
    .map((text) => (/[?!]$/.test(text) ? text : `${text}.`))
    .join(" ");

/** @param {string} text */
const capitalize = (text) => text && text[0].toUpperCase() + text.slice(1);
