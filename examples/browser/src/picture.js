import { neverAborted, readGeneration } from "./picture-queue/generations.js";
import { supabase } from "./supabase.js";

const RETRY_DELAY = 1_000; // milliseconds

/**
 * Shows an image in an element. If it cannot be loaded, because the network is down or its signed
 * URL has expired, it is loaded again with a new URL.
 *
 * @param {HTMLImageElement} element
 * @param {string} generation_id
 * @param {import("./picture-queue/generations.js").Image} [image] if it is missing, the element is hidden
 * @param {string} [alt]
 */
export function showPicture(element, generation_id, image, alt = "") {
  element.hidden = !image;
  element.onerror = null;
  if (!image) return element.removeAttribute("src");
  element.alt = alt;
  element.onerror = () => setTimeout(retry, RETRY_DELAY);
  element.src = image.url;
  const ownHandler = element.onerror;

  async function retry() {
    // If the handler was replaced, the element shows another image now.
    if (!element.isConnected || element.onerror !== ownHandler) return;
    const generation = await readGeneration(supabase, generation_id, neverAborted());
    const current = generation?.images.find(({ n }) => n === image.n);
    if (current?.url && element.onerror === ownHandler) element.src = current.url;
  }
}
