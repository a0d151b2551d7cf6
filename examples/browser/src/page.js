// The page without a framework. `show` renders a state, and all changes of the page go through it.
import { PictureQueueError } from "./picture-queue/errors.js";
import {
  cancelGeneration,
  generateWithRealtime,
  listModels,
  resumeGeneration,
} from "./picture-queue/generate.js";
import { hasEnded, listGenerations } from "./picture-queue/generations.js";
import { showSession } from "./session.js";
import { supabase } from "./supabase.js";
import { showPicture } from "./picture.js";
import { describeModel, describeState, selectPromptOnly } from "./labels.js";

const $ = (id) => document.getElementById(id);
let following = new AbortController();
let generation_id = null;

showSession(async (user_id) => {
  following.abort();
  $("studio").hidden = !user_id;
  if (!user_id) return;
  show({ status: null });
  await Promise.all([showModels(), resumeNewest()]).catch(showError);
});

$("request").addEventListener("submit", (event) => {
  event.preventDefault();
  const request = { prompt: $("prompt").value, model_id: $("model").value };
  run(request.prompt, (onProgress, options) => generateWithRealtime(request, onProgress, options));
});

$("cancel").addEventListener("click", async () => {
  $("cancel").disabled = true;
  try {
    await cancelGeneration(generation_id);
    $("status").textContent = "Cancelling …";
  } catch (error) {
    if (error.code !== "PQ_FINISHED_JOB") showError(error); // it finished before the cancel
  }
});

/** Follows one generation, and stops following the previous generation. */
async function run(prompt, begin) {
  following.abort();
  const { signal } = (following = new AbortController());
  generation_id = null;
  show({ status: "pending", progress: 0, started: false });
  $("stage").scrollIntoView({ block: "nearest", behavior: "smooth" });
  try {
    const generation = await begin((state) => {
      generation_id = state.generation_id;
      show({ ...state, started: Boolean(state.version) });
    }, { signal });
    show(generation, prompt);
  } catch (error) {
    if (signal.aborted) return; // the page follows another generation, or the user changed
    show({ status: error.generation?.status ?? null });
    if (error.name !== "JobCancelled") showError(error);
  }
  await showHistory().catch(showError);
}

/** @param {any} state a state, or the finished generation */
function show(state, prompt = "") {
  const running = state.status === "pending" || state.status === "processing";
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
  $("generate").disabled = running;
  $("error").hidden = true;
  $("empty").hidden = running || Boolean(image);
  $("open").hidden = !image;
  showPicture($("picture"), state.id, image, prompt);
  if (image) $("open").href = image.url;
}

/** @param {Error} error */
function showError(error) {
  const { code, detail, hint } = error instanceof PictureQueueError ? error : {};
  $("error").textContent = [error.message, detail, hint].filter(Boolean).join(". ");
  $("error").dataset.code = code ?? "";
  $("error").hidden = false;
}

async function showModels() {
  const models = selectPromptOnly(await listModels());
  const describeSelected = () => {
    const selected = models.find((model) => model.model_id === $("model").value);
    $("about-model").textContent = selected ? describeModel(selected) : "";
  };
  $("model").replaceChildren(
    ...models.map((m) => new Option(m.model_id, m.model_id, m.default, m.default)),
  );
  $("model").onchange = describeSelected;
  describeSelected();
}

/** Follows the newest generation if it is in progress, after a reload or on another device. */
async function resumeNewest() {
  const [newest] = await showHistory();
  if (newest && !hasEnded(newest.status)) resume(newest);
}

async function showHistory() {
  const generations = await listGenerations(supabase);
  $("past").hidden = !generations.length;
  $("history").replaceChildren(...generations.map(makeTile));
  return generations;
}

function makeTile(generation) {
  const [image] = generation.images;
  const button = document.createElement("button");
  button.title = generation.prompt;
  button.textContent = generation.status;
  if (image) {
    const picture = document.createElement("img");
    showPicture(picture, generation.id, image, generation.prompt);
    button.replaceChildren(picture);
  }
  button.addEventListener("click", () => resume(generation));
  const item = document.createElement("li");
  item.append(button);
  return item;
}

function resume({ id, prompt }) {
  $("prompt").value = prompt;
  run(prompt, (onProgress, options) => resumeGeneration(id, onProgress, options));
}
