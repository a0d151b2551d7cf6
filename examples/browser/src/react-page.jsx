// The page with React and useImageGeneration().
import { StrictMode, useEffect, useState } from "react";
import { createRoot } from "react-dom/client";
import { listModels } from "./picture-queue/generate.js";
import { hasEnded, listGenerations } from "./picture-queue/generations.js";
import { useImageGeneration } from "./picture-queue/useImageGeneration.js";
import { showPicture } from "./picture.js";
import { showSession } from "./session.js";
import { supabase } from "./supabase.js";
import { describeState, selectPromptOnly } from "./labels.js";

function Studio() {
  const generation = useImageGeneration();
  const [prompt, setPrompt] = useState("");
  const [models, setModels] = useState([]);
  const [model_id, setModel] = useState("");
  const [problem, setProblem] = useState(null);
  const { resume } = generation;

  // Loads the models, and resumes the newest generation if it is in progress.
  useEffect(() => {
    const controller = new AbortController();
    const { signal } = controller;
    const load = async () => {
      const models = await listModels({ signal });
      setModels(selectPromptOnly(models));
      setModel(models.find((model) => model.default)?.model_id ?? "");
      const [newest] = await listGenerations(supabase, { limit: 1, signal });
      if (newest && !hasEnded(newest.status)) resume(newest.id);
    };
    load().catch((error) => signal.aborted || setProblem(error));
    return () => controller.abort();
  }, [resume]);

  const submit = (event) => {
    event.preventDefault();
    generation.start({ prompt, model_id });
  };

  return (
    <main id="studio">
      <form onSubmit={submit}>
        <h1>Generate a picture</h1>
        <label htmlFor="prompt">Prompt</label>
        <textarea id="prompt" rows="4" required value={prompt} onChange={(event) => setPrompt(event.target.value)} />
        <label htmlFor="model">Model</label>
        <select id="model" value={model_id} onChange={(event) => setModel(event.target.value)}>
          {models.map((model) => (
            <option key={model.model_id}>{model.model_id}</option>
          ))}
        </select>
        <button id="generate" className="main" disabled={generation.running}>
          Generate
        </button>
      </form>
      <Stage {...generation} error={generation.error ?? problem} prompt={prompt} />
    </main>
  );
}

function Stage({ generation_id, status, progress, message, images, error, running, started, cancel, prompt }) {
  const [image] = images;
  return (
    <figure id="stage" data-status={status ?? "nothing"}>
      <div className="frame">
        {image && <Picture key={image.path} generation_id={generation_id} image={image} alt={prompt} />}
        {!running && !image && <p>Your picture appears here.</p>}
      </div>
      <figcaption>
        <p id="status" role="status">
          {status && describeState({ status, message, started })}
        </p>
        {running && <progress id="progress" max="100" value={progress} aria-label="Progress" />}
        {error && error.name !== "JobCancelled" && (
          <p id="error" role="alert" data-code={error.code ?? ""}>
            {[error.message, error.detail, error.hint].filter(Boolean).join(". ")}
          </p>
        )}
        {running && (
          <div>
            <button id="cancel" className="quiet" onClick={cancel} disabled={!started}>
              Cancel
            </button>
          </div>
        )}
      </figcaption>
    </figure>
  );
}

function Picture({ generation_id, image, alt }) {
  return <img id="picture" ref={(element) => element && showPicture(element, generation_id, image, alt)} />;
}

const root = createRoot(document.querySelector("#root"));
showSession((user_id) =>
  root.render(<StrictMode>{user_id && <Studio key={user_id} />}</StrictMode>),
);
