// The fields of the plain page for the inputs of a model.
import { describeField } from "./labels.js";
import { describeError } from "./picture-queue/reasons.js";
import { PICTURE_TYPES, uploadPicture } from "./picture-queue/uploads.js";

/**
 * Makes the element for a field.
 *
 * @param {import("./picture-queue/models.js").Field} field
 * @param {() => void} onChange
 */
export function makeField(field, onChange) {
  if (field.type === "picture") return makePictureField(field, onChange);
  const control =
    field.type === "choice" ? document.createElement("select") : document.createElement("input");
  control.id = `input-${field.name}`;
  control.name = field.name;
  if (field.type === "choice") {
    if (field.default === undefined && !field.required) control.add(new Option("–", ""));
    for (const option of field.options)
      control.add(new Option(option, option, option === field.default, option === field.default));
  } else if (field.type === "number") {
    Object.assign(control, {
      type: "number",
      step: field.step,
      min: field.minimum ?? "",
      max: field.maximum ?? "",
    });
    control.value = field.default ?? "";
  } else if (field.type === "boolean") {
    Object.assign(control, { type: "checkbox", checked: Boolean(field.default) });
  } else {
    control.value = field.default ?? "";
  }
  control.required = field.required && field.type !== "boolean";
  const label = make("label", { htmlFor: control.id, textContent: field.label });
  const container = make("div", { className: "field" });
  if (field.type === "boolean") {
    label.className = "check";
    label.prepend(control, " ");
    container.append(label);
  } else {
    const hint = make("p", {
      id: `${control.id}-hint`,
      className: "hint",
      textContent: describeField(field),
    });
    control.setAttribute("aria-describedby", hint.id);
    container.append(label, control, hint);
  }
  return container;
}

/** Makes the element for a picture: a file to upload, or a picture of the gallery. */
function makePictureField(field, onChange) {
  const id = `input-${field.name}`;
  const file = make("input", { type: "file", id, accept: Object.keys(PICTURE_TYPES).join() });
  const value = make("input", { type: "hidden", name: field.name });
  const preview = make("img", { className: "preview", alt: "The chosen picture", hidden: true });
  const remove = make("button", {
    type: "button",
    className: "quiet",
    textContent: "Remove",
    hidden: true,
  });
  remove.setAttribute("aria-label", `Remove ${field.label}`);
  const note = make("p", {
    id: `${id}-hint`,
    className: "hint",
    textContent: "PNG, JPEG or WebP, up to 10 MiB",
  });
  const problem = make("p", { className: "problem", hidden: true });
  problem.setAttribute("role", "alert");
  file.setAttribute("aria-describedby", note.id);
  const label = make("label", {
    htmlFor: id,
    textContent: field.label + (field.required ? "" : " (optional)"),
  });
  const row = make("div", { className: "row" });
  row.append(preview, file, remove);
  const container = make("div", { className: "field picture-field" });
  container.append(label, row, value, note, problem);
  let upload = new AbortController();

  /** Shows a picture, or removes it. */
  const use = (address = "", url = "") => {
    upload.abort();
    file.setCustomValidity("");
    if (preview.src.startsWith("blob:")) URL.revokeObjectURL(preview.src);
    value.value = address;
    preview.hidden = remove.hidden = !url;
    if (url) preview.src = url;
    else preview.removeAttribute("src");
    problem.hidden = true;
    note.textContent = address.startsWith("generation:")
      ? "From your gallery"
      : "PNG, JPEG or WebP, up to 10 MiB";
    onChange();
  };
  file.addEventListener("change", async () => {
    const [chosen] = file.files;
    use();
    if (!chosen) return;
    const { signal } = (upload = new AbortController());
    try {
      note.textContent = "Uploading …";
      // With this text, the form cannot be submitted.
      file.setCustomValidity("Wait until the picture is uploaded.");
      const address = await uploadPicture(chosen, { signal });
      if (signal.aborted) return;
      use(address, URL.createObjectURL(chosen));
      note.textContent = `${chosen.name} is uploaded`;
    } catch (error) {
      if (signal.aborted) return;
      use();
      file.value = "";
      problem.textContent = describeError(error).sentence;
      problem.hidden = false;
    }
  });
  remove.addEventListener("click", () => {
    file.value = "";
    use();
    file.focus();
  });
  container.use = (address, url) => {
    file.value = "";
    use(address, url);
  };
  return container;
}

/**
 * Reads the values of all fields in an element.
 *
 * @param {HTMLElement} container
 * @returns {Object<string, string | boolean>}
 */
export function readFields(container) {
  const controls = [...container.querySelectorAll("[name]")];
  return Object.fromEntries(
    controls.map(({ name, type, checked, value }) => [name, type === "checkbox" ? checked : value]),
  );
}

/**
 * @param {string} tag
 * @param {Object} properties
 */
export const make = (tag, properties) => Object.assign(document.createElement(tag), properties);
