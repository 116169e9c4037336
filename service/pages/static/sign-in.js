// Exchange a token for a session: the token goes into one request, and is kept nowhere.
"use strict";
// Where to go on: within this service alone, as the browser reads the address (it leaves out tabs, and takes \ for /).
function ours(address) {
  try {
    const to = new URL(address, location.href);
    return to.href.startsWith(location.origin + "/") ? to.href : "/";
  } catch {
    return "/"; // no address at all
  }
}

document.getElementById("sign-in").addEventListener("submit", async (event) => {
  event.preventDefault();
  const form = event.target, refusal = document.getElementById("refusal");
  refusal.hidden = true;
  let text = "no connection to the service";
  try {
    const answer = await fetch("/v1/session", { method: "POST", headers: { Authorization: `Bearer ${form.token.value.trim()}` } });
    if (answer.ok) {
      location.href = ours(form.dataset.next);
      return;
    }
    text = (await answer.json()).detail;
  } catch { /* said below */ }
  form.token.value = "";
  refusal.textContent = text;
  refusal.hidden = false;
});
