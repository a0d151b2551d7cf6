// The form of the React page: kind, model, inputs, and how many.
import { useEffect, useRef, useState } from "react";
import { describeField, describeModel, labelKind } from "./labels.js";
import {
  expectCost,
  findNextModel,
  listFields,
  needsPrompt,
  takesPrompt,
} from "./picture-queue/models.js";
import { describeError, describeExpectedCost } from "./picture-queue/reasons.js";
import { PICTURE_TYPES, uploadPicture } from "./picture-queue/uploads.js";
import { buildRequests, findPictureKind, listKinds, listModelsOf, STEPS } from "./requests.js";

const EMPTY = {
  kind: "text-to-image",
  model_id: "",
  prompt: "",
  values: {},
  count: 1,
  eachLine: false,
  steps: [],
};

/**
 * The state of the form, and what can be derived from it.
 *
 * @param {any[]} models
 */
export function useRequestForm(models) {
  const [given, setForm] = useState(EMPTY);
  const kinds = listKinds(models);
  const kind = kinds.includes(given.kind) ? given.kind : kinds[0];
  const form = {
    ...given,
    kind,
    model_id: given.model_id || (listModelsOf(models, kind)[0]?.model_id ?? ""),
  };
  const change = (part) => setForm((form) => ({ ...form, ...part }));
  const setValue = (name, value) =>
    setForm((form) => ({ ...form, values: { ...form.values, [name]: value } }));
  const selectKind = (kind) => change({ kind, model_id: "", values: {} });
  const model = models.find(({ model_id }) => model_id === form.model_id);
  const fields = model ? listFields(model) : [];
  /** Puts a picture of the gallery into the first field for a picture. */
  const usePicture = (address, url) => {
    let picture = fields.find(({ type }) => type === "picture");
    const values = { ...form.values };
    const part = {};
    if (!picture) {
      part.kind = findPictureKind(models);
      const [next] = listModelsOf(models, part.kind);
      part.model_id = next.model_id;
      picture = listFields(next).find(({ type }) => type === "picture");
    }
    change({ ...part, values: { ...(part.kind ? {} : values), [picture.name]: { address, url } } });
  };
  const requests = buildRequests({ ...form, values: flatten(form.values) }, models);
  return { ...form, change, setValue, selectKind, model, fields, requests, usePicture };
}

/** Returns the values with the address of each picture. */
const flatten = (values) =>
  Object.fromEntries(
    Object.entries(values).map(([name, value]) => [name, value?.address ?? value]),
  );

/** @param {any} props */
export function RequestForm({ form, models, running, account, invalid, onSubmit }) {
  const {
    kind,
    model_id,
    prompt,
    count,
    eachLine,
    steps,
    change,
    setValue,
    selectKind,
    model,
    fields,
    requests,
  } = form;
  const [settingsOpen, setSettingsOpen] = useState(false);
  const total = requests.reduce((sum, { then = [] }) => sum + 1 + then.length, 0);
  const hasPrompt = !model || takesPrompt(model);
  const pictures = fields.filter(({ type }) => type === "picture");
  const others = fields.filter(({ type }) => type !== "picture");

  // Shows the field that a refusal names.
  useEffect(() => {
    if (!invalid) return;
    if (others.some(({ name }) => name === invalid.field)) setSettingsOpen(true);
    const control =
      document.getElementById(invalid.field) ?? document.getElementById(`input-${invalid.field}`);
    control?.focus();
  }, [invalid]); // eslint-disable-line react-hooks/exhaustive-deps

  const makeField = (field) => {
    const Field = field.type === "picture" ? PictureField : InputField;
    return (
      <Field
        key={`${model_id} ${field.name}`}
        field={field}
        value={form.values[field.name]}
        onChange={(value) => setValue(field.name, value)}
        isInvalid={invalid?.field === field.name}
      />
    );
  };

  return (
    <form
      id="request"
      onSubmit={(event) => {
        event.preventDefault();
        onSubmit(requests);
      }}
    >
      <h1>Generate a picture</h1>
      <label htmlFor="kind">Kind</label>
      <select id="kind" value={kind} onChange={(event) => selectKind(event.target.value)}>
        {listKinds(models).map((kind) => (
          <option key={kind} value={kind}>
            {labelKind(kind)}
          </option>
        ))}
      </select>
      <label htmlFor="model">Model</label>
      <select
        id="model"
        value={model_id}
        aria-describedby="about-model"
        onChange={(event) => change({ model_id: event.target.value, values: {} })}
      >
        {listModelsOf(models, kind).map((model) => (
          <option key={model.model_id}>{model.model_id}</option>
        ))}
      </select>
      <p id="about-model" className="hint">
        {model && describeModel(model)}
      </p>
      {hasPrompt && (
        <div className="field">
          <label htmlFor="prompt">Prompt</label>
          <textarea
            id="prompt"
            rows="3"
            placeholder="A lighthouse at dusk, long exposure, calm sea"
            required={!model || needsPrompt(model)}
            aria-invalid={invalid?.field === "prompt" || undefined}
            value={prompt}
            onChange={(event) => change({ prompt: event.target.value })}
          />
        </div>
      )}
      {pictures.map(makeField)}
      {others.length > 0 && (
        <details
          id="settings"
          open={settingsOpen}
          onToggle={(event) => setSettingsOpen(event.currentTarget.open)}
        >
          <summary>Settings of the model</summary>
          <div className="pair">{others.map(makeField)}</div>
        </details>
      )}
      <fieldset>
        <legend>How many, and what then</legend>
        <div className="row">
          <label htmlFor="count">Pictures</label>
          <input
            id="count"
            type="number"
            min="1"
            max="20"
            required
            value={count}
            onChange={(event) =>
              change({ count: event.target.value && Number(event.target.value) })
            }
          />
          {hasPrompt && (
            <label className="check">
              <input
                id="each-line"
                type="checkbox"
                checked={eachLine}
                onChange={(event) => change({ eachLine: event.target.checked })}
              />{" "}
              One prompt per line
            </label>
          )}
        </div>
        {form.kind !== "vector" && (
          <div className="row" id="steps">
            {STEPS.filter((step) => findNextModel(models, step)).map((step) => (
              <label className="check" key={step}>
                <input
                  type="checkbox"
                  value={step}
                  checked={steps.includes(step)}
                  onChange={({ target }) =>
                    change({
                      steps: STEPS.filter((other) =>
                        other === step ? target.checked : steps.includes(other),
                      ),
                    })
                  }
                />{" "}
                Then {labelKind(step).toLowerCase()}
              </label>
            ))}
          </div>
        )}
      </fieldset>
      <p id="cost" className="cost" role="status">
        {models.length > 0 &&
          (total > 1 ? `${total} generations · ` : "") +
            describeExpectedCost(expectCost(requests, models))}
      </p>
      <button id="generate" className="main" disabled={running}>
        {total > 1 ? `Generate all ${total}` : "Generate"}
      </button>
      <p id="account" className="hint">
        {account}
      </p>
    </form>
  );
}

function InputField({ field, value = field.default, onChange, isInvalid }) {
  const id = `input-${field.name}`;
  const shared = {
    id,
    name: field.name,
    "aria-invalid": isInvalid || undefined,
    onChange: ({ target }) => onChange(target.type === "checkbox" ? target.checked : target.value),
  };
  if (field.type === "boolean")
    return (
      <div className="field">
        <label className="check">
          <input type="checkbox" checked={Boolean(value)} {...shared} /> {field.label}
        </label>
      </div>
    );
  return (
    <div className="field">
      <label htmlFor={id}>{field.label}</label>
      {field.type === "choice" ? (
        <select {...shared} value={value ?? ""} required={field.required}>
          {field.default === undefined && !field.required && <option value="">–</option>}
          {field.options.map((option) => (
            <option key={option}>{String(option)}</option>
          ))}
        </select>
      ) : (
        <input
          {...shared}
          type={field.type}
          value={value ?? ""}
          required={field.required}
          min={field.minimum}
          max={field.maximum}
          step={field.type === "number" ? field.step : undefined}
          aria-describedby={`${id}-hint`}
        />
      )}
      <p id={`${id}-hint`} className="hint">
        {describeField(field)}
      </p>
    </div>
  );
}

/** A file to upload, or a picture of the gallery. The value is its address and a URL to show it. */
function PictureField({ field, value, onChange, isInvalid }) {
  const id = `input-${field.name}`;
  const file = useRef(null);
  const upload = useRef(null);
  const [note, setNote] = useState("");
  const [problem, setProblem] = useState("");

  useEffect(() => () => upload.current?.abort(), []);
  const choose = async () => {
    upload.current?.abort();
    const { signal } = (upload.current = new AbortController());
    const [chosen] = file.current.files;
    onChange(undefined);
    setProblem("");
    setNote(chosen ? "Uploading …" : "");
    // With a text, the form cannot be submitted.
    file.current.setCustomValidity(chosen ? "Wait until the picture is uploaded." : "");
    if (!chosen) return;
    try {
      const address = await uploadPicture(chosen, { signal });
      if (signal.aborted) return;
      onChange({ address, url: URL.createObjectURL(chosen) });
      setNote(`${chosen.name} is uploaded`);
    } catch (error) {
      if (signal.aborted) return;
      file.current.value = "";
      setNote("");
      setProblem(describeError(error).sentence);
    } finally {
      if (!signal.aborted) file.current?.setCustomValidity("");
    }
  };
  const remove = () => {
    file.current.value = "";
    file.current.focus();
    upload.current?.abort();
    setNote("");
    onChange(undefined);
  };
  const isOfGallery = value?.address.startsWith("generation:");
  useEffect(() => {
    if (!isOfGallery) return;
    upload.current?.abort();
    file.current.value = "";
    file.current.setCustomValidity("");
    setProblem("");
  }, [isOfGallery]);
  useEffect(() => () => value?.url.startsWith("blob:") && URL.revokeObjectURL(value.url), [value]);
  return (
    <div className="field picture-field">
      <label htmlFor={id}>{field.label + (field.required ? "" : " (optional)")}</label>
      <div className="row">
        {value && <img className="preview" src={value.url} alt="The chosen picture" />}
        <input
          ref={file}
          id={id}
          type="file"
          accept={Object.keys(PICTURE_TYPES).join()}
          aria-invalid={isInvalid || undefined}
          aria-describedby={`${id}-hint`}
          onChange={choose}
        />
        {value && (
          <button
            type="button"
            className="quiet"
            aria-label={`Remove ${field.label}`}
            onClick={remove}
          >
            Remove
          </button>
        )}
      </div>
      <p id={`${id}-hint`} className="hint">
        {isOfGallery ? "From your gallery" : note || "PNG, JPEG or WebP, up to 10 MiB"}
      </p>
      {problem && (
        <p className="problem" role="alert">
          {problem}
        </p>
      )}
    </div>
  );
}
