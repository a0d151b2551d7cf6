import { supabase } from "./supabase.js";

/**
 * Shows who is signed in; where nobody is, a form for it.
 *
 * @param {(user_id: string | null) => void} onChange is called at once, and when somebody else is there
 */
export function keepSession(onChange) {
  const signIn = makeForm();
  let user; // not known yet
  document.querySelector("#sign-out").addEventListener("click", () => supabase.auth.signOut());
  supabase.auth.onAuthStateChange((_event, session) => {
    const found = session?.user.id ?? null;
    if (found === user) return; // a new token, the same person
    user = found;
    signIn.hidden = Boolean(session);
    document.querySelector("#sign-out").hidden = !session;
    document.querySelector("#who").textContent = session?.user.email ?? "";
    // Calls of the client wait until its callbacks have ended.
    setTimeout(() => onChange(found));
  });
}

function makeForm() {
  const main = document.querySelector("#sign-in").content.firstElementChild;
  const problem = main.querySelector("#sign-in-error");
  document.body.append(main);
  main.hidden = true;
  main.querySelector("form").addEventListener("submit", async (event) => {
    event.preventDefault();
    const { email, password } = event.target;
    const what = event.submitter.value; // signInWithPassword or signUp
    const { data, error } = await supabase.auth[what]({ email: email.value, password: password.value });
    const text = error?.message ?? (data.session ? "" : "Look for our e-mail, and follow its link.");
    problem.textContent = text;
    problem.hidden = !text;
  });
  return main;
}
