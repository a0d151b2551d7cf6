// The page with React and useImageGeneration().
import { StrictMode, useCallback, useEffect, useMemo, useState } from "react";
import { createRoot } from "react-dom/client";
import { describeState, describeTile, nameGeneration } from "./labels.js";
import { getAccount } from "./picture-queue/account.js";
import { listModels } from "./picture-queue/generate.js";
import { hasEnded, listGenerations } from "./picture-queue/generations.js";
import {
  describeAccount,
  describeCost,
  describeError,
  describeWait,
} from "./picture-queue/reasons.js";
import { useImageGeneration } from "./picture-queue/useImageGeneration.js";
import { showPicture } from "./picture.js";
import { RequestForm, useRequestForm } from "./react-form.jsx";
import { isBatch } from "./requests.js";
import { showSession } from "./session.js";
import { supabase } from "./supabase.js";

function Studio() {
  const generation = useImageGeneration();
  const [models, setModels] = useState([]);
  const [account, setAccount] = useState("");
  const [history, setHistory] = useState([]);
  const [problem, setProblem] = useState(null);
  const form = useRequestForm(models);
  const { start, resume, resumeBatch, running } = generation;
  const error = generation.error ?? problem;
  const refusal = useMemo(() => error && describeError(error), [error]);

  // Loads the models, and resumes the newest generation in progress.
  useEffect(() => {
    const controller = new AbortController();
    const { signal } = controller;
    const load = async () => {
      setModels(await listModels({ signal }));
      const newest = (await listGenerations(supabase, { signal })).find(
        ({ status }) => !hasEnded(status),
      );
      if (newest?.batch_id) resumeBatch(newest.batch_id);
      else if (newest) resume(newest.id);
    };
    load().catch((error) => signal.aborted || setProblem(error));
    return () => controller.abort();
  }, [resume, resumeBatch]);

  // Reads the account and the gallery again after each generation.
  useEffect(() => {
    if (running) return;
    const controller = new AbortController();
    const { signal } = controller;
    const load = async () => {
      const [account, history] = await Promise.all([
        getAccount({ signal }),
        listGenerations(supabase, { signal }),
      ]);
      setAccount(describeAccount(account));
      setHistory(history);
    };
    load().catch((error) => signal.aborted || setProblem(error));
    return () => controller.abort();
  }, [running]);

  const usePicture = ({ id }, { n, url }) => {
    form.usePicture(`generation:${id}/${n}`, url);
    document.getElementById("request").scrollIntoView({ behavior: "smooth" });
    document.getElementById("prompt")?.focus({ preventScroll: true });
  };
  const submit = useCallback(
    (requests) => start(isBatch(requests) ? requests : requests[0]),
    [start],
  );

  return (
    <main id="studio">
      <RequestForm
        form={form}
        models={models}
        running={running}
        account={account}
        invalid={refusal?.field ? refusal : null}
        onSubmit={submit}
      />
      <Stage
        {...generation}
        error={error}
        sentence={refusal?.sentence}
        prompt={form.prompt}
        onUse={usePicture}
      />
      {history.length > 0 && (
        <section aria-labelledby="history-title" id="past">
          <h2 id="history-title">Earlier</h2>
          <ul id="history" className="tiles">
            {history.map((item) => (
              <Tile
                key={item.id}
                generation={item}
                text={item.images.length ? "" : item.status}
                onOpen={() => resume(item.id)}
                onUse={usePicture}
              />
            ))}
          </ul>
        </section>
      )}
    </main>
  );
}

function Stage(props) {
  const {
    generation_id,
    status,
    images,
    generations,
    error,
    sentence,
    running,
    started,
    wait,
    cancel,
    prompt,
    onUse,
  } = props;
  const [image] = images;
  const waiting = describeWait(wait);
  return (
    <figure id="stage" data-status={status ?? "nothing"}>
      {generations.length > 0 ? (
        <ul id="tiles" className="tiles" aria-label="Pictures of this run">
          {generations.map((item) => (
            <Tile key={item.id} generation={item} text={describeTile(item)} onUse={onUse} />
          ))}
        </ul>
      ) : (
        <div className="frame">
          {image && (
            <Picture
              key={image.path}
              id="picture"
              generation_id={generation_id}
              image={image}
              alt={prompt}
            />
          )}
          {!running && !image && <p>Your picture appears here.</p>}
        </div>
      )}
      <figcaption>
        <p id="status" role="status">
          {status && describeState(props)}
        </p>
        {running && (
          <progress id="progress" max="100" value={props.progress} aria-label="Progress" />
        )}
        {waiting && (
          <p id="wait" className="hint" data-reason={wait.reason}>
            {waiting}
          </p>
        )}
        {error && error.name !== "JobCancelled" && (
          <p id="error" role="alert" data-code={error.code ?? ""}>
            {sentence}
          </p>
        )}
        <div className="row">
          {running && (
            <button id="cancel" className="quiet" onClick={cancel} disabled={!started}>
              {generations.length ? "Cancel all" : "Cancel"}
            </button>
          )}
          {image && (
            <>
              <button
                id="use"
                className="quiet"
                onClick={() => onUse({ id: generation_id }, image)}
              >
                Use this picture
              </button>
              <a id="open" className="quiet" href={image.url} target="_blank" rel="noopener">
                Open in full size
              </a>
            </>
          )}
          <p id="paid" className="hint end">
            {describeCost(props)}
          </p>
        </div>
      </figcaption>
    </figure>
  );
}

function Tile({ generation, text, onOpen, onUse }) {
  const [image] = generation.images;
  const content = image ? (
    <Picture
      key={image.path}
      generation_id={generation.id}
      image={image}
      alt={nameGeneration(generation)}
    />
  ) : (
    <span>{text}</span>
  );
  const caption = generation.error ?? (image ? text : "");
  return (
    <li className="tile" data-status={generation.status}>
      {onOpen ? (
        <button type="button" className="thumb" title={nameGeneration(generation)} onClick={onOpen}>
          {content}
        </button>
      ) : (
        <a className="thumb" href={image?.url ?? undefined} target="_blank" rel="noopener">
          {content}
        </a>
      )}
      {caption && <p className="caption">{caption}</p>}
      {image && image.mime_type !== "image/svg+xml" && (
        <button type="button" className="use" onClick={() => onUse(generation, image)}>
          Use this picture
        </button>
      )}
    </li>
  );
}

function Picture({ id, generation_id, image, alt }) {
  const show = useCallback(
    (element) => element && showPicture(element, generation_id, image, alt),
    [generation_id, image.path], // eslint-disable-line react-hooks/exhaustive-deps
  );
  return <img id={id} ref={show} />;
}

const root = createRoot(document.querySelector("#root"));
showSession((user_id) =>
  root.render(<StrictMode>{user_id && <Studio key={user_id} />}</StrictMode>),
);
