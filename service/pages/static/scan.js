// Scanning: one detection at a time, a label by a key; pages of them follow each other.
"use strict";
(() => {
  const box = document.getElementById("scan"), tools = document.getElementById("scan-tools");
  if (!tools) return;
  tools.hidden = false;
  const said = document.getElementById("scan-said"), all = [...box.querySelectorAll(".scanned")], given = [];
  const labels = { r: "real", b: "bogus", u: "unsure" };
  let at = 0, busy = false;
  const word = () => JSON.parse(document.body.getAttribute("hx-headers") || "{}");
  const count = (label, by) => { const place = document.getElementById(`given-${label}`); place.textContent = Number(place.textContent) + by; };

  function load(article) {
    if (!article || article.dataset.loaded) return;
    article.dataset.loaded = "yes";
    for (const image of article.querySelectorAll("img")) {
      image.addEventListener("error", () => { article.querySelector(".triplet").hidden = true; article.querySelector(".missing").hidden = false; });
      image.src = image.dataset.src;
    }
  }
  function show() {
    all.forEach((article, k) => { article.hidden = k !== at; });
    load(all[at]); load(all[at + 1]);
    if (at === all.length) location.reload(); // the next page of them
  }
  async function send(method, source, body) {
    busy = true;
    try {
      const answer = await fetch(`/v1/labels/${source}`, {
        method, headers: { ...word(), "Content-Type": "application/json" }, body: body && JSON.stringify(body),
      });
      if (!answer.ok) said.textContent = (await answer.json()).detail;
      return answer.ok;
    } catch {
      said.textContent = "No connection to the service: the label was not stored.";
      return false;
    } finally { busy = false; }
  }
  async function give(label) {
    if (busy || at >= all.length) return;
    const source = all[at].dataset.source;
    if (!await send("PUT", source, { label })) return;
    given.push([source, label]);
    count(label, 1);
    said.textContent = `${source}: ${label}`;
    at += 1;
    show();
  }
  async function back() {
    if (busy || !given.length) return;
    const [source, label] = given[given.length - 1];
    if (!await send("DELETE", source)) return;
    given.pop();
    count(label, -1);
    at = all.findIndex((article) => article.dataset.source === source);
    said.textContent = `${source}: taken back`;
    show();
  }
  tools.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (button && button.dataset.label) give(button.dataset.label);
    else if (button) back();
  });
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName)) return;
    if (labels[event.key]) give(labels[event.key]);
    else if (event.key === "z") back();
  });
  show();
})();
