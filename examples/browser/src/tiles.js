// The tiles of the plain page: a list of generations with their pictures.
import { make } from "./fields.js";
import { nameGeneration } from "./labels.js";
import { showPicture } from "./picture.js";

/**
 * Shows a list of generations, and keeps the elements of those that are shown already.
 *
 * @param {HTMLElement} list
 * @param {any[]} generations
 * @param {{describe: (generation: any) => string, onOpen?: (generation: any) => void,
 *   onUse: (generation: any, image: any) => void}} options `onOpen`: default: open the picture
 */
export function showTiles(list, generations, { describe, onOpen, onUse }) {
  const known = new Map([...list.children].map((tile) => [tile.dataset.id, tile]));
  const tiles = generations.map((generation) => {
    const tile = known.get(generation.id) ?? makeTile(generation, onOpen, onUse);
    updateTile(tile, generation, describe(generation));
    return tile;
  });
  const isSame =
    tiles.length === list.children.length && tiles.every((tile, i) => tile === list.children[i]);
  if (!isSame) list.replaceChildren(...tiles);
}

function makeTile(generation, onOpen, onUse) {
  const tile = make("li", { className: "tile" });
  tile.dataset.id = generation.id;
  const open = onOpen
    ? make("button", { type: "button" })
    : make("a", { target: "_blank", rel: "noopener" });
  open.className = "thumb";
  open.append(make("img", { alt: "", hidden: true }), make("span", {}));
  open.addEventListener("click", () => onOpen?.(tile.generation));
  const use = make("button", {
    type: "button",
    className: "use",
    textContent: "Use this picture",
    hidden: true,
  });
  use.addEventListener("click", () => onUse(tile.generation, tile.generation.images[0]));
  tile.append(open, make("p", { className: "caption" }), use);
  return tile;
}

function updateTile(tile, generation, text) {
  const [open, caption, use] = tile.children;
  const [picture, label] = open.children;
  const [image] = generation.images;
  const shown = tile.generation?.images[0];
  tile.generation = generation;
  tile.dataset.status = generation.status;
  if (image?.url && image.path !== shown?.path) {
    showPicture(picture, generation.id, image, nameGeneration(generation));
    if (open.tagName === "A") open.href = image.url;
  }
  label.textContent = image ? "" : text;
  open.title = nameGeneration(generation);
  caption.textContent = generation.error ?? (image ? text : "");
  caption.hidden = !caption.textContent;
  use.hidden = !image || image.mime_type === "image/svg+xml";
}
