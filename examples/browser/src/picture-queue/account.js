import { call } from "./rpc.js";

/**
 * @typedef {Object} Account
 * @property {number} credits_usd
 * @property {number} pending generations that have not ended
 * @property {number} spent_today_usd
 * @property {number} spent_this_month_usd
 * @property {{usd_per_day?: number, usd_per_month?: number, per_minute?: number, per_hour?: number,
 *   max_pending?: number, needs_credits?: boolean}} budget the limits of the user
 */

/**
 * Returns the credits, the spending and the limits of the user.
 *
 * @param {{signal?: AbortSignal}} [options]
 * @returns {Promise<Account>}
 */
export function getAccount({ signal } = {}) {
  return call("get_account", {}, signal);
}
