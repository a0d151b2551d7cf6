// From the values of the form to the requests of start_generation and start_generations.
import {
  doesKind,
  findNextModel,
  KINDS,
  listFields,
  readInput,
  takesPrompt,
} from "./picture-queue/models.js";

const MAX_REQUESTS = 100; // of start_generations
const MAX_SEED = 2 ** 31;

/** The kinds that can follow in a chain. */
export const STEPS = ["upscale", "background-removal"];

/** @param {any[]} models */
export const listKinds = (models) =>
  KINDS.filter((kind) => models.some((model) => doesKind(model, kind)));

/**
 * Returns the models of a kind, the default model first, then those whose main kind it is.
 *
 * @param {any[]} models
 * @param {string} kind
 */
export const listModelsOf = (models, kind) =>
  models
    .filter((model) => doesKind(model, kind))
    .sort((a, b) => b.default - a.default || (b.kind === kind) - (a.kind === kind));

/**
 * Returns the kind to select when the user wants to use a picture and the model takes none.
 *
 * @param {any[]} models
 */
export const findPictureKind = (models) =>
  ["image-edit", "image-variation", "upscale"].find((kind) => listModelsOf(models, kind).length);

/**
 * Builds the requests: one for each prompt and seed, each followed by the same steps.
 *
 * @param {{model_id: string, kind: string, prompt: string, values: Object, count: number,
 *   eachLine: boolean, steps: string[]}} form
 * @param {any[]} models
 * @returns {import("./picture-queue/batches.js").BatchRequest[]}
 */
export function buildRequests({ model_id, kind, prompt, values, count, eachLine, steps }, models) {
  const model = models.find((model) => model.model_id === model_id);
  const fields = model ? listFields(model) : [];
  const input = readInput(fields, values);
  const text = !model || takesPrompt(model) ? prompt : "";
  const lines = text.split("\n").filter((line) => line.trim());
  const prompts = eachLine && lines.length ? lines : [text];
  const hasSeed = fields.some(({ name }) => name === "seed");
  const first = input.seed ?? Math.floor(Math.random() * MAX_SEED);
  const seeds = Array.from({ length: count }, (_, i) =>
    hasSeed && count > 1 ? { seed: first + i } : {},
  );
  const then = (kind === "vector" ? [] : steps).map((kind) => ({
    kind,
    model_id: findNextModel(models, kind)?.model_id,
  }));
  return prompts
    .flatMap((prompt) =>
      seeds.map((seed) => ({
        prompt,
        model_id,
        kind,
        input: { ...input, ...seed },
        ...(then.length && { then }),
      })),
    )
    .slice(0, MAX_REQUESTS);
}

/**
 * Returns whether requests are a batch or a chain; otherwise they are a single generation.
 *
 * @param {import("./picture-queue/batches.js").BatchRequest[]} requests
 */
export const isBatch = (requests) => requests.length > 1 || Boolean(requests[0]?.then);
