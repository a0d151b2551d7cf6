// The page without a framework. `show` renders a state, and all changes of the stage go through it.
import { makeField, readFields } from "./fields.js";
import { describeModel, describeState, describeTile, labelKind } from "./labels.js";
import { getAccount } from "./picture-queue/account.js";
import { cancelBatch, followBatch, generateBatchWithRealtime } from "./picture-queue/batches.js";
import {
  cancelGeneration,
  generateWithRealtime,
  listModels,
  resumeGeneration,
} from "./picture-queue/generate.js";
import { hasEnded, listGenerations } from "./picture-queue/generations.js";
import {
  expectCost,
  findNextModel,
  listFields,
  needsPrompt,
  takesPrompt,
} from "./picture-queue/models.js";
import {
  describeAccount,
  describeCost,
  describeError,
  describeExpectedCost,
  describeWait,
} from "./picture-queue/reasons.js";
import { findWaitingJob, watchWait } from "./picture-queue/waiting.js";
import { showPicture } from "./picture.js";
import {
  buildRequests,
  findPictureKind,
  isBatch,
  listKinds,
  listModelsOf,
  STEPS,
} from "./requests.js";
import { showSession } from "./session.js";
import { supabase } from "./supabase.js";
import { showTiles } from "./tiles.js";

const $ = (id) => document.getElementById(id);
let following = new AbortController();
let current = {}; // the state that the stage shows
let models = [];

showSession(async (user_id) => {
  following.abort();
  $("studio").hidden = !user_id;
  if (!user_id) return;
  show({ status: null });
  await Promise.all([showModels(), resumeNewest(), showAccount()]).catch(showError);
});

// --- The form ---

async function showModels() {
  models = await listModels();
  $("kind").replaceChildren(...listKinds(models).map((kind) => new Option(labelKind(kind), kind)));
  $("steps").replaceChildren(...STEPS.filter((kind) => findNextModel(models, kind)).map(makeStep));
  showKind();
}

function makeStep(kind) {
  const label = document.createElement("label");
  label.className = "check";
  const box = Object.assign(document.createElement("input"), { type: "checkbox", value: kind });
  label.append(box, ` Then ${labelKind(kind).toLowerCase()}`);
  return label;
}

/** Shows the models of the selected kind. */
function showKind() {
  const kind = $("kind").value;
  $("model").replaceChildren(
    ...listModelsOf(models, kind).map(({ model_id }) => new Option(model_id, model_id)),
  );
  $("steps").hidden = kind === "vector";
  showModel();
}

/** Shows the fields of the selected model. */
function showModel() {
  const model = findModel();
  const fields = model ? listFields(model) : [];
  const makeFields = (isPicture) =>
    fields
      .filter(({ type }) => (type === "picture") === isPicture)
      .map((field) => makeField(field, showCost));
  $("about-model").textContent = model ? describeModel(model) : "";
  $("pictures").replaceChildren(...makeFields(true));
  $("inputs").replaceChildren(...makeFields(false));
  $("settings").hidden = !$("inputs").children.length;
  $("prompt-field").hidden = Boolean(model) && !takesPrompt(model);
  $("each-line-field").hidden = $("prompt-field").hidden;
  $("prompt").required = !model || needsPrompt(model);
  showCost();
}

const findModel = () => models.find(({ model_id }) => model_id === $("model").value);

/** Returns the requests of the form. */
function readForm() {
  const form = {
    model_id: $("model").value,
    kind: $("kind").value,
    prompt: $("prompt").value,
    values: { ...readFields($("pictures")), ...readFields($("inputs")) },
    count: Number($("count").value) || 1,
    eachLine: $("each-line").checked,
    steps: [...$("steps").querySelectorAll(":checked")].map(({ value }) => value),
  };
  return buildRequests(form, models);
}

function showCost() {
  const requests = readForm();
  const count = requests.reduce((sum, { then = [] }) => sum + 1 + then.length, 0);
  const total = count > 1 ? `${count} generations · ` : "";
  $("cost").textContent = models.length
    ? total + describeExpectedCost(expectCost(requests, models))
    : "";
  $("generate").textContent = count > 1 ? `Generate all ${count}` : "Generate";
}

async function showAccount() {
  $("account").textContent = describeAccount(await getAccount());
}

/** Puts a picture of the gallery into the form. */
function useAsInput({ id }, image) {
  if (!$("pictures").children.length) {
    $("kind").value = findPictureKind(models);
    showKind();
  }
  $("pictures").firstElementChild?.use(`generation:${id}/${image.n}`, image.url);
  $("request").scrollIntoView({ block: "start", behavior: "smooth" });
  ($("prompt-field").hidden ? $("generate") : $("prompt")).focus({ preventScroll: true });
}

$("kind").addEventListener("change", showKind);
$("model").addEventListener("change", showModel);
$("request").addEventListener("input", showCost);
$("request").addEventListener("submit", (event) => {
  event.preventDefault();
  const requests = readForm();
  const [request] = requests;
  run(request.prompt, (onProgress, options) =>
    isBatch(requests)
      ? generateBatchWithRealtime(requests, onProgress, options)
      : generateWithRealtime(request, onProgress, options),
  );
});

// --- The stage ---

$("cancel").addEventListener("click", async () => {
  $("cancel").disabled = true;
  try {
    await (current.batch_id
      ? cancelBatch(current.batch_id)
      : cancelGeneration(current.generation_id));
    $("status").textContent = "Cancelling …";
  } catch (error) {
    if (error.code !== "PQ_FINISHED_JOB") showError(error); // it finished before the cancel
  }
});

$("use").addEventListener("click", () => useAsInput({ id: current.id }, current.images[0]));

/** Follows one generation or batch, and stops following the one before. */
async function run(prompt, begin) {
  following.abort();
  const { signal } = (following = new AbortController());
  const waiting = new AbortController();
  hideError();
  show({ status: "pending", progress: 0, started: false });
  $("stage").scrollIntoView({ block: "nearest", behavior: "smooth" });
  watchWait(
    () => findWaitingJob(current),
    (wait) => signal.aborted || showWait(wait),
    waiting.signal,
  );
  try {
    const result = await begin(
      (state) => show({ ...state, started: Boolean(state.version || state.total) }, prompt),
      { signal },
    );
    show(result, prompt);
  } catch (error) {
    if (signal.aborted) return; // the page follows another generation, or the user changed
    show({ status: error.generation?.status ?? null, cost_usd: error.generation?.cost_usd });
    if (error.name !== "JobCancelled") showError(error);
  } finally {
    waiting.abort();
  }
  await Promise.all([showHistory(), showAccount()]).catch(showError);
}

/** @param {any} state a state, or the finished generation or batch */
function show(state, prompt = "") {
  current = state;
  const running = state.status === "pending" || state.status === "processing";
  const tiles = state.generations ?? [];
  const [image] = state.images ?? [];
  $("stage").dataset.status = state.status ?? "nothing";
  $("status").textContent = describeState(state);
  $("progress").hidden = !running;
  $("progress").value = state.progress ?? 0;
  $("source").hidden = !running || !state.source;
  $("source").dataset.source = state.source;
  $("source").textContent = state.source === "poll" ? "polling" : "live";
  $("cancel").hidden = !running;
  $("cancel").disabled = !state.started;
  $("cancel").textContent = tiles.length ? "Cancel all" : "Cancel";
  $("generate").disabled = running;
  if (!findWaitingJob(state)) showWait(null);
  $("empty").hidden = running || Boolean(image);
  $("open").hidden = $("use").hidden = !image;
  $("paid").textContent = describeCost(state);
  document.querySelector("#stage .frame").hidden = tiles.length > 0;
  $("tiles").hidden = !tiles.length;
  showTiles($("tiles"), tiles, { describe: describeTile, onUse: useAsInput });
  showPicture($("picture"), state.id, image, prompt);
  if (image) $("open").href = image.url;
}

/** @param {import("./picture-queue/waiting.js").Wait | null} wait */
function showWait(wait) {
  $("wait").textContent = describeWait(wait);
  $("wait").dataset.reason = wait?.reason ?? "";
  $("wait").hidden = !$("wait").textContent;
}

/** @param {Error} error */
function showError(error) {
  const { sentence, field } = describeError(error);
  $("error").textContent = sentence;
  $("error").dataset.code = error.code ?? "";
  $("error").hidden = false;
  const control = $(field) ?? $(`input-${field}`);
  if (!control?.closest("#request")) return;
  if (control.closest("#settings")) $("settings").open = true;
  control.setAttribute("aria-invalid", "true");
  control.focus();
}

function hideError() {
  $("error").hidden = true;
  document.querySelector("[aria-invalid]")?.removeAttribute("aria-invalid");
}

// --- The gallery ---

/** Follows the newest unfinished generation, after a reload or on another device. */
async function resumeNewest() {
  const newest = (await showHistory()).find(({ status }) => !hasEnded(status));
  if (newest) resume(newest);
}

async function showHistory() {
  const generations = await listGenerations(supabase);
  $("past").hidden = !generations.length;
  const describe = ({ images, status }) => (images.length ? "" : status);
  showTiles($("history"), generations, { describe, onOpen: open, onUse: useAsInput });
  return generations;
}

/** Follows a generation, or the batch that it belongs to. */
function resume({ id, batch_id, prompt }) {
  if (!batch_id) return open({ id, prompt });
  run(prompt, (onProgress, options) => followBatch(batch_id, onProgress, options));
}

function open({ id, prompt }) {
  $("prompt").value = prompt;
  run(prompt, (onProgress, options) => resumeGeneration(id, onProgress, options));
}
