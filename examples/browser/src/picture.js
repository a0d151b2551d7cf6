import { forever, readGeneration } from "./picture-queue/generations.js";
import { supabase } from "./supabase.js";

const PAUSE = 1_000; // milliseconds until the next try

/**
 * Shows an image in an element, and does not give up: where it cannot be loaded, because the
 * network is away or its address has run out, it is tried again with a new address.
 *
 * @param {HTMLImageElement} element
 * @param {string} generation_id
 * @param {import("./picture-queue/generations.js").Image} [image] none hides the element
 * @param {string} [alt]
 */
export function showPicture(element, generation_id, image, alt = "") {
  element.hidden = !image;
  element.onerror = null;
  if (!image) return element.removeAttribute("src");
  element.alt = alt;
  element.onerror = () => setTimeout(retry, PAUSE);
  element.src = image.url;
  const started = element.onerror;

  async function retry() {
    if (!element.isConnected || element.onerror !== started) return; // another picture is there now
    const found = await readGeneration(supabase, generation_id, forever());
    const now = found?.images.find(({ n }) => n === image.n);
    if (now?.url && element.onerror === started) element.src = now.url;
  }
}
