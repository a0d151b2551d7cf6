import { supabase } from "./supabase.js";

/**
 * Shows the signed-in user, or a form to sign in.
 *
 * @param {(user_id: string | null) => void} onChange is called once at the start, and when the user changes
 */
export function showSession(onChange) {
  const signIn = makeForm();
  let user; // undefined: not known yet
  document.querySelector("#sign-out").addEventListener("click", () => supabase.auth.signOut());
  supabase.auth.onAuthStateChange((_event, session) => {
    const newUser = session?.user.id ?? null;
    if (newUser === user) return; // a new token of the same user
    user = newUser;
    signIn.hidden = Boolean(session);
    document.querySelector("#sign-out").hidden = !session;
    document.querySelector("#who").textContent = session?.user.email ?? "";
    // setTimeout, because calls of the client in this callback would wait for its end.
    setTimeout(() => onChange(newUser));
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
    const method = event.submitter.value; // signInWithPassword or signUp
    const { data, error } = await supabase.auth[method]({ email: email.value, password: password.value });
    const text = error?.message ?? (data.session ? "" : "Open the link in the e-mail that we sent you.");
    problem.textContent = text;
    problem.hidden = !text;
  });
  return main;
}
