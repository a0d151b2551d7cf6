import { supabase } from "../supabase.js";
import { PictureQueueError } from "./errors.js";
import { neverAborted } from "./generations.js";
import { sendRequest } from "./retry.js";
import { newId } from "./rpc.js";

/**
 * The types of pictures that the bucket `uploads` takes, with their file extensions.
 *
 * @type {Object<string, string>}
 */
export const PICTURE_TYPES = { "image/png": "png", "image/jpeg": "jpg", "image/webp": "webp" };
export const MAX_BYTES = 10 * 1024 * 1024;
const UPLOAD_TIMEOUT = 120_000; // milliseconds for each attempt

/**
 * Uploads a picture to the user's folder of the bucket `uploads`.
 *
 * @param {File} file
 * @param {{signal?: AbortSignal}} [options]
 * @returns {Promise<string>} the input of a generation: `storage:uploads/<user id>/<name>`
 * @throws {PictureQueueError} `Refused`
 */
export async function uploadPicture(file, { signal = neverAborted() } = {}) {
  checkPicture(file);
  const { data } = await supabase.auth.getSession();
  if (!data.session)
    throw new PictureQueueError("Refused", "sign in first", { code: "PQ_NOT_AUTHENTICATED" });
  const path = `${data.session.user.id}/${newId()}.${PICTURE_TYPES[file.type]}`;
  const bucket = supabase.storage.from("uploads");
  const upload = async () => {
    // With upsert a repeated upload of the same file succeeds.
    const answer = await bucket.upload(path, file, { contentType: file.type, upsert: true });
    if (answer.error && /row-level security/.test(answer.error.message)) throw tooManyFiles();
    return answer;
  };
  await sendRequest(supabase, upload, signal, UPLOAD_TIMEOUT);
  return `storage:uploads/${path}`;
}

/**
 * Refuses a file that the bucket would not take, before it is sent.
 *
 * @param {File} file
 * @throws {PictureQueueError} `Refused`
 */
export function checkPicture(file) {
  const problem = !(file.type in PICTURE_TYPES)
    ? `${file.name} is not a PNG, JPEG or WebP picture`
    : file.size > MAX_BYTES
      ? `${file.name} has ${(file.size / 1024 / 1024).toFixed(1)} MiB, and at most 10 MiB are possible`
      : file.size === 0
        ? `${file.name} is empty`
        : null;
  if (problem) throw new PictureQueueError("Refused", problem, { code: "UNSUITABLE_FILE" });
}

const tooManyFiles = () =>
  new PictureQueueError("Refused", "You have as many uploaded files as this project allows", {
    code: "TOO_MANY_FILES",
    hint: "Delete one of them first",
  });
