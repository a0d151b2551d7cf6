/**
 * An input of a model as `list_models` returns it.
 *
 * @typedef {Object} ModelInput
 * @property {string} name
 * @property {"string" | "integer" | "number" | "boolean" | "array"} type
 * @property {"uri"} [format]
 * @property {boolean} [required]
 * @property {any} [default]
 * @property {any[]} [enum]
 * @property {number} [minimum]
 * @property {number} [maximum]
 */
/**
 * @typedef {Object} Model
 * @property {string} model_id
 * @property {string} kind
 * @property {string[]} also_kinds
 * @property {ModelInput[]} inputs
 * @property {Object<string, {lock?: any, default?: any, cap?: any, refuse?: any}>} rules of the operator
 * @property {boolean} default
 * @property {number | null} typical_seconds
 * @property {number | null} price_usd_per_image
 * @property {string | null} max_outputs_param the input with the number of pictures
 */
/**
 * A field of a form.
 *
 * @typedef {Object} Field
 * @property {string} name
 * @property {string} label
 * @property {"picture" | "choice" | "boolean" | "number" | "text"} type
 * @property {boolean} required
 * @property {any} default undefined: none
 * @property {any[]} options of a choice
 * @property {number} [minimum]
 * @property {number} [maximum]
 * @property {"any" | 1} step of a number
 * @property {boolean} isList the input takes a list of pictures
 */

/** The kinds of models, in the order of a form. */
export const KINDS = [
  "text-to-image",
  "image-edit",
  "image-variation",
  "upscale",
  "background-removal",
  "vector",
];

/**
 * @param {Model} model
 * @param {string} kind
 */
export const doesKind = (model, kind) => model.kind === kind || model.also_kinds.includes(kind);

/** @param {Model} model */
export const takesPrompt = ({ inputs }) => inputs.some(({ name }) => name === "prompt");

/**
 * Returns whether a model cannot run without a prompt. Models of text-to-image cannot, even if
 * their prompt has a default.
 *
 * @param {Model} model
 */
export const needsPrompt = ({ kind, inputs }) =>
  inputs.some(({ name, required }) => name === "prompt" && (required || kind === "text-to-image"));

/**
 * Returns the fields of a form for a model: its inputs without the prompt, without lists that are
 * no pictures, and without inputs that a rule of the operator locks or refuses.
 *
 * @param {Model} model
 * @returns {Field[]} pictures first
 */
export function listFields({ inputs, rules }) {
  return inputs
    .filter(({ name, type, format }) => name !== "prompt" && (type !== "array" || format === "uri"))
    .filter(({ name }) => !("lock" in (rules?.[name] ?? {})) && rules?.[name]?.refuse !== true)
    .map((input) => makeField(input, rules?.[input.name] ?? {}))
    .sort((a, b) => rank(a) - rank(b));
}

/** Orders the main picture first, as a chain does: a required one, and no mask. @param {Field} field */
const rank = ({ type, required, name }) =>
  type !== "picture" ? 9 : (required ? 0 : 2) + (name.includes("mask") ? 1 : 0);

/**
 * @param {ModelInput} input
 * @param {{default?: any, cap?: any, refuse?: any}} rule
 * @returns {Field}
 */
function makeField(input, rule) {
  const { name, type, minimum, enum: values } = input;
  const refused = Array.isArray(rule.refuse) ? rule.refuse : [];
  const isNumber = type === "integer" || type === "number";
  const maximum =
    isNumber && typeof rule.cap === "number"
      ? Math.min(input.maximum ?? rule.cap, rule.cap)
      : input.maximum;
  const options = (values ?? []).filter(
    (value) => !refused.includes(value) && !(isNumber && value > (maximum ?? value)),
  );
  return {
    name,
    label: labelOf(name),
    type:
      input.format === "uri"
        ? "picture"
        : values
          ? "choice"
          : type === "boolean"
            ? "boolean"
            : isNumber
              ? "number"
              : "text",
    required: Boolean(input.required),
    default: input.format === "uri" ? undefined : (rule.default ?? input.default ?? undefined),
    options,
    minimum,
    maximum,
    step: type === "integer" ? 1 : "any",
    isList: type === "array",
  };
}

/**
 * Turns the name of an input into a label: `num_outputs` into "Number of outputs".
 *
 * @param {string} name
 */
export function labelOf(name) {
  const words = name.replaceAll("_", " ").replace(/^num /, "number of ");
  return words[0].toUpperCase() + words.slice(1);
}

/**
 * Returns the input of a request. Empty fields and defaults are left out, so that the model decides.
 *
 * @param {Field[]} fields
 * @param {Object<string, string | boolean | undefined>} values by name; of a picture: its address
 * @returns {Object<string, any>}
 */
export function readInput(fields, values) {
  /** @type {Object<string, any>} */
  const input = {};
  for (const field of fields) {
    const value = readValue(field, values[field.name]);
    if (value !== undefined && value !== field.default) input[field.name] = value;
  }
  return input;
}

/**
 * @param {Field} field
 * @param {string | boolean | undefined} value
 */
function readValue({ type, options, isList }, value) {
  if (value === undefined || value === "") return undefined;
  if (type === "number") return Number(value);
  if (type === "choice") return options.find((option) => String(option) === value);
  if (type === "picture" && isList) return [value];
  return value;
}

/**
 * Returns the cheapest model of a kind that continues a chain: it takes a picture and needs no
 * prompt. Models with a price come first, then the fastest.
 *
 * @param {Model[]} models
 * @param {string} kind
 * @returns {Model | undefined}
 */
export function findNextModel(models, kind) {
  const order = (/** @type {Model} */ { price_usd_per_image: price, typical_seconds: seconds }) =>
    price ?? 1000 + (seconds ?? 1e6);
  return models
    .filter((model) => model.kind === kind && !needsPrompt(model))
    .filter((model) => listFields(model).some(({ type }) => type === "picture"))
    .sort((a, b) => order(a) - order(b) || a.model_id.localeCompare(b.model_id))[0];
}

/**
 * Returns what requests are expected to cost. The database reserves the exact amount at the start.
 *
 * @param {import("./batches.js").BatchRequest[]} requests
 * @param {Model[]} models
 * @returns {{usd: number, timed: number, unknown: number}} `timed`: how many generations have a model
 *   that is billed by its time; `unknown`: how many have a model whose cost is not known
 */
export function expectCost(requests, models) {
  const cost = { usd: 0, timed: 0, unknown: 0 };
  for (const request of requests)
    for (const { model_id, input } of [request, ...(request.then ?? [])]) {
      const model = models.find((model) => model.model_id === model_id);
      if (model?.price_usd_per_image != null)
        cost.usd += model.price_usd_per_image * countOutputs(model, input);
      else if (model?.typical_seconds) cost.timed++;
      else cost.unknown++;
    }
  return cost;
}

/**
 * @param {Model} model
 * @param {any} input
 */
function countOutputs(model, input) {
  const name = model.max_outputs_param;
  if (!name) return 1;
  return input?.[name] ?? listFields(model).find((field) => field.name === name)?.default ?? 1;
}
