import { formatUsd } from "./picture-queue/reasons.js";

const KIND_LABELS = {
  "text-to-image": "Text to picture",
  "image-edit": "Edit a picture",
  "image-variation": "Vary a picture",
  upscale: "Upscale",
  "background-removal": "Remove background",
  vector: "Vector graphic",
};

/** @param {string} kind */
export const labelKind = (kind) => KIND_LABELS[kind] ?? kind;

/**
 * Describes a state for the user.
 *
 * @param {{status: string | null, hold?: string | null, message?: string | null, started?: boolean,
 *   generations?: any[], completed?: number, total?: number, failed?: number, cancelled?: number}} state
 *   of a generation, or of a batch
 */
export function describeState(state) {
  const { status, hold, message, started = true } = state;
  if (!started) return "Starting …";
  if (state.generations?.length) return describeBatch(state);
  if (status === "pending") return hold === "scheduled" ? "Waiting for a retry …" : "Waiting …";
  if (status === "processing") return message ? capitalize(message) : "Generating …";
  return { completed: "Here it is", failed: "It failed", cancelled: "Cancelled" }[status] ?? "";
}

/** @param {{generations: any[]}} batch */
function describeBatch({ generations }) {
  const count = (status) => generations.filter((generation) => generation.status === status).length;
  return [
    `${count("completed")} of ${generations.length} finished`,
    count("failed") && `${count("failed")} failed`,
    count("cancelled") && `${count("cancelled")} cancelled`,
  ]
    .filter(Boolean)
    .join(", ");
}

/** Names a generation in the gallery: a step of a chain has no prompt. @param {any} generation */
export const nameGeneration = ({ prompt, kind }) => prompt || labelKind(kind);

/** Describes a generation of a batch: its step in a chain, and its state. @param {any} generation */
export function describeTile(generation) {
  const { status, hold, progress, kind, step } = generation;
  const state =
    status === "pending"
      ? hold === "waiting"
        ? "after the one before"
        : "waiting"
      : status === "processing"
        ? `${progress} %`
        : status === "completed"
          ? "finished"
          : status;
  return step > 0 ? `${labelKind(kind)}: ${state}` : capitalize(state);
}

/**
 * Describes the duration and the price of a model.
 *
 * @param {{typical_seconds: number | null, price_usd_per_image: number | null}} model
 */
export function describeModel({ typical_seconds, price_usd_per_image }) {
  return [
    typical_seconds && `about ${Math.max(1, Math.round(typical_seconds))} s`,
    price_usd_per_image != null
      ? `${formatUsd(price_usd_per_image)} a picture`
      : typical_seconds
        ? "billed by computing time"
        : "cost not known",
  ]
    .filter(Boolean)
    .join(" · ");
}

/**
 * Describes the values that a field takes.
 *
 * @param {import("./picture-queue/models.js").Field} field
 */
export function describeField({ type, minimum, maximum, default: value }) {
  if (type !== "number") return "";
  const range =
    minimum != null && maximum != null
      ? `${minimum} to ${maximum}`
      : minimum != null
        ? `from ${minimum}`
        : maximum != null
          ? `up to ${maximum}`
          : "";
  return [range, value != null && `default ${value}`].filter(Boolean).join(", ");
}

const capitalize = (text) => text[0].toUpperCase() + text.slice(1);
