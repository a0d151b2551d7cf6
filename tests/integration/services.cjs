// Calls Storage and Auth with supabase-js, and prints the answers by name as one JSON object.
const { createRequire } = require("node:module");
const { NODE_MODULES, API_URL, ANON_KEY, SECRET_KEY } = process.env;
const { createClient } = createRequire(NODE_MODULES + "/")("@supabase/supabase-js");

const options = {
  auth: { persistSession: false, autoRefreshToken: false },
  realtime: { transport: class {} }, // Node 20 has no WebSocket, and this script needs none
};
const client = (key) => createClient(API_URL, key, options);
const answers = {};

/** Records the code of an error, or the part of the data that `select` returns. */
async function record(name, call, select = (data) => data) {
  const { data, error } = await call;
  answers[name] = error ? { error: error.code ?? error.statusCode ?? error.status } : select(data);
  return data;
}

async function auth(service) {
  const user = client(ANON_KEY);
  const email = `${crypto.randomUUID()}@example.com`;
  const password = "correct horse battery";
  const created = await record(
    "createUser", service.auth.admin.createUser({ email, password, email_confirm: true }),
    ({ user }) => user.email === email);
  await record("wrongPassword", user.auth.signInWithPassword({ email, password: "wrong horse" }));
  await record("signIn", user.auth.signInWithPassword({ email, password }), ({ session }) => session.token_type);
  await record("getUser", user.auth.getUser(), ({ user }) => user.email === email);
  await record("getClaims", user.auth.getClaims(), ({ claims }) => claims.role);
  await record("updateUser", user.auth.updateUser({ data: { name: "Ada" } }), ({ user }) => user.user_metadata);
  await record("refresh", user.auth.refreshSession(), ({ session }) => session.expires_in);
  await record("listUsers", service.auth.admin.listUsers({ page: 1, perPage: 1 }),
    ({ users, total, nextPage, lastPage }) => [users.length, total >= 1, nextPage === null || nextPage === 2, lastPage >= 1]);
  await record("getUserById", service.auth.admin.getUserById(created.user.id), ({ user }) => user.user_metadata);
  await record("notAdmin", user.auth.admin.listUsers());
  await record("otp", user.auth.signInWithOtp({ email }));
  await record("factors", user.auth.mfa.enroll({ factorType: "totp" }));
  return [user, created.user.id];
}

async function storage(service, user, id) {
  const files = user.storage.from("pictures");
  const path = `${id}/g/0.png`;
  const bytes = new Blob(["bytes"], { type: "image/png" });
  await record("upload", files.upload(path, bytes, { contentType: "image/png", metadata: { a: 1 } }),
    (data) => data.fullPath === `pictures/${path}`);
  await record("uploadTwice", files.upload(path, bytes));
  await record("info", files.info(path), ({ contentType, size, metadata }) => [contentType, size, metadata]);
  await record("exists", files.exists(path));
  await record("list", files.list(`${id}/g`), (data) => data.map((entry) => entry.name));
  await record("listV2", files.listV2({ prefix: `${id}/`, with_delimiter: true }), (data) => data.folders.map((f) => f.key));
  await record("copy", files.copy(path, `${id}/copy.png`), (data) => data.path === `pictures/${id}/copy.png`);
  await record("move", files.move(path, `${id}/moved.png`), (data) => data.message);
  const text = await (await files.download(`${id}/moved.png`)).data.text();
  answers.download = text;
  const signed = await record("sign", files.createSignedUrl(`${id}/moved.png`, 60), () => true);
  answers.signed = await (await fetch(signed.signedUrl)).text();
  const upload = await record("signUpload", files.createSignedUploadUrl(`${id}/signed.png`), () => true);
  const anonymous = client(ANON_KEY).storage.from("pictures");
  await record("uploadSigned", anonymous.uploadToSignedUrl(upload.path, upload.token, bytes), () => true);
  await record("moveToAnotherFolder", files.move(`${id}/moved.png`, "another/0.png"));
  await record("remove", files.remove([`${id}/moved.png`, `${id}/copy.png`, `${id}/signed.png`]), (data) => data.length);
  await record("signTransformed", files.createSignedUrl(path, 60, { transform: { width: 10 } }));
  const bucket = `b-${crypto.randomUUID()}`;
  await record("createBucket", service.storage.createBucket(bucket), () => true);
  await record("updateBucket", service.storage.updateBucket(bucket, { public: true }));
  await record("getBucket", service.storage.getBucket(bucket), (data) => data.public);
  await record("emptyBucket", service.storage.emptyBucket(bucket), () => true);
  await record("deleteBucket", service.storage.deleteBucket(bucket));
}

(async () => {
  const service = client(SECRET_KEY);
  const [user, id] = await auth(service);
  await storage(service, user, id);
  await record("signOut", user.auth.signOut(), () => "out");
  await record("deleteUser", service.auth.admin.deleteUser(id), () => true);
  console.log(JSON.stringify(answers));
})();
