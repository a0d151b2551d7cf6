// The page without a framework: what the user sees is made from states, and from nothing else.
import { PictureQueueError } from "./picture-queue/errors.js";
import {
  cancelGeneration,
  generateWithRealtime,
  listModels,
  resumeGeneration,
} from "./picture-queue/generate.js";
import { hasEnded, listGenerations } from "./picture-queue/generations.js";
import { keepSession } from "./session.js";
import { supabase } from "./supabase.js";
import { showPicture } from "./picture.js";
import { describe, describeModel, promptOnly } from "./words.js";

const $ = (id) => document.getElementById(id);
let following = new AbortController();
let generation_id = null;

keepSession(async (user_id) => {
  following.abort();
  $("studio").hidden = !user_id;
  if (!user_id) return;
  show({ status: null });
  await Promise.all([offerModels(), resumeNewest()]).catch(complain);
});

$("wish").addEventListener("submit", (event) => {
  event.preventDefault();
  const wish = { prompt: $("prompt").value, model_id: $("model").value };
  run(wish.prompt, (onProgress, options) => generateWithRealtime(wish, onProgress, options));
});

$("cancel").addEventListener("click", async () => {
  $("cancel").disabled = true;
  try {
    await cancelGeneration(generation_id);
    $("status").textContent = "Cancelling …";
  } catch (error) {
    if (error.code !== "PQ_FINISHED_JOB") complain(error); // it has ended: too late, no harm
  }
});

/** Follows one generation, and forgets any other. */
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
    if (signal.aborted) return; // somebody wants to see another one
    show({ status: error.generation?.status ?? null });
    if (error.name !== "JobCancelled") complain(error);
  }
  await showHistory().catch(complain);
}

/** @param {any} state a state, or the generation as it ended */
function show(state, prompt = "") {
  const running = state.status === "pending" || state.status === "processing";
  const [image] = state.images ?? [];
  $("stage").dataset.status = state.status ?? "nothing";
  $("status").textContent = describe(state);
  $("progress").hidden = !running;
  $("progress").value = state.progress ?? 0;
  $("source").hidden = !running || !state.source;
  $("source").dataset.source = state.source;
  $("source").textContent = state.source === "poll" ? "asking again and again" : "live";
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
function complain(error) {
  const { code, detail, hint } = error instanceof PictureQueueError ? error : {};
  $("error").textContent = [error.message, detail, hint].filter(Boolean).join(". ");
  $("error").dataset.code = code ?? "";
  $("error").hidden = false;
}

async function offerModels() {
  const models = promptOnly(await listModels());
  const about = () => {
    const chosen = models.find((model) => model.model_id === $("model").value);
    $("about-model").textContent = chosen ? describeModel(chosen) : "";
  };
  $("model").replaceChildren(
    ...models.map((m) => new Option(m.model_id, m.model_id, m.default, m.default)),
  );
  $("model").onchange = about;
  about();
}

/** After a reload, or on another device: what is under way is followed again. */
async function resumeNewest() {
  const [newest] = await showHistory();
  if (newest && !hasEnded(newest.status)) again(newest);
}

async function showHistory() {
  const generations = await listGenerations(supabase);
  $("past").hidden = !generations.length;
  $("history").replaceChildren(...generations.map(tile));
  return generations;
}

function tile(generation) {
  const [image] = generation.images;
  const button = document.createElement("button");
  button.title = generation.prompt;
  button.textContent = generation.status;
  if (image) {
    const picture = document.createElement("img");
    showPicture(picture, generation.id, image, generation.prompt);
    button.replaceChildren(picture);
  }
  button.addEventListener("click", () => again(generation));
  const item = document.createElement("li");
  item.append(button);
  return item;
}

function again({ id, prompt }) {
  $("prompt").value = prompt;
  run(prompt, (onProgress, options) => resumeGeneration(id, onProgress, options));
}
