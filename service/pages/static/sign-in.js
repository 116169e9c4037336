// Exchange a token for a session: the token goes into one request, and is kept nowhere.
"use strict";
document.getElementById("sign-in").addEventListener("submit", async (event) => {
  event.preventDefault();
  const form = event.target, refusal = document.getElementById("refusal");
  refusal.hidden = true;
  let text = "no connection to the service";
  try {
    const answer = await fetch("/v1/session", { method: "POST", headers: { Authorization: `Bearer ${form.token.value.trim()}` } });
    if (answer.ok) {
      const to = new URL(form.dataset.next, location.href); // as the browser will read it: it leaves out tabs, and reads \ as /
      location.href = to.href.startsWith(location.origin + "/") ? to.href : "/"; // to this service alone
      return;
    }
    text = (await answer.json()).detail;
  } catch { /* said below */ }
  form.token.value = "";
  refusal.textContent = text;
  refusal.hidden = false;
});
