/**
 * Describes a state for the user.
 *
 * @param {{status: string | null, hold?: string | null, message?: string | null, started?: boolean}} state
 */
export function describeState({ status, hold, message, started = true }) {
  if (!started) return "Starting …";
  if (status === "pending") return hold === "scheduled" ? "Waiting for a retry …" : "Waiting …";
  if (status === "processing") return message ? capitalize(message) : "Generating …";
  return { completed: "Here it is", failed: "It failed", cancelled: "Cancelled" }[status] ?? "";
}

/**
 * Describes the duration and the price of a model.
 *
 * @param {{typical_seconds: number | null, price_usd_per_image: number | null}} model
 */
export function describeModel({ typical_seconds, price_usd_per_image }) {
  return [
    typical_seconds && `about ${Math.max(1, Math.round(typical_seconds))} s`,
    price_usd_per_image && `$${price_usd_per_image} a picture`,
  ]
    .filter(Boolean)
    .join(" · ");
}

/**
 * Selects the models whose only required input is the prompt.
 *
 * @param {any[]} models
 */
export const selectPromptOnly = (models) =>
  models.filter(({ inputs }) =>
    inputs.every(({ name, required }) => !required || name === "prompt"),
  );

const capitalize = (text) => text[0].toUpperCase() + text.slice(1);
