// Makes the calls of a task with supabase-js, in Node and in a browser.
//
// task: {url, clients: {role: {key, token}}, requests: [{role, function, args, times}]}
// answer: [{data, error, status}], in the order of the requests.

const { createClient } = require('@supabase/supabase-js')

async function run(task) {
  // supabase-js requires a WebSocket class, although calls do not use it. Node 20 has none.
  const realtime = { transport: globalThis.WebSocket ?? class {} }
  const clients = {}
  for (const [role, { key, token }] of Object.entries(task.clients)) {
    clients[role] = createClient(task.url, key, {
      auth: { persistSession: false, autoRefreshToken: false, detectSessionInUrl: false, storageKey: role },
      realtime,
      global: { headers: { Authorization: `Bearer ${token}` } },
    })
  }
  const answers = []
  for (const request of task.requests) {
    let answer
    for (let i = 0; i < request.times; i++) {
      answer = await clients[request.role].rpc(request.function, request.args)
    }
    const { data, error, status } = answer
    answers.push({ data, error: error && { ...error, message: error.message }, status })
  }
  return answers
}

module.exports = { run }
