/**
 * What to tell people of a state.
 *
 * @param {{status: string | null, hold?: string | null, message?: string | null, started?: boolean}} state
 */
export function describe({ status, hold, message, started = true }) {
  if (!started) return "Asking …";
  if (status === "pending") return hold === "scheduled" ? "It will be tried again" : "In line …";
  if (status === "processing") return message ? sentence(message) : "Being drawn …";
  return { completed: "Here it is", failed: "It failed", cancelled: "Cancelled" }[status] ?? "";
}

/** @param {{typical_seconds: number | null, price_usd_per_image: number | null}} model */
export function describeModel({ typical_seconds, price_usd_per_image }) {
  return [
    typical_seconds && `about ${Math.max(1, Math.round(typical_seconds))} s`,
    price_usd_per_image && `$${price_usd_per_image} a picture`,
  ]
    .filter(Boolean)
    .join(" · ");
}

/**
 * The models that need a prompt and nothing else.
 *
 * @param {any[]} models
 */
export const promptOnly = (models) =>
  models.filter(({ inputs }) =>
    inputs.every(({ name, required }) => !required || name === "prompt"),
  );

const sentence = (text) => text[0].toUpperCase() + text.slice(1);
