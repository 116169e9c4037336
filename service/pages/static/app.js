// What every page does in a browser: keeps itself new, switches its theme, obeys keys. Without it pages are read as they are.
"use strict";
(() => {
  const byId = (id) => document.getElementById(id);
  const PAUSE_MS = 600; // between two renewals, so that many changes do not make many requests

  // First the page is on the screen. What lies below the window, what renews the page, and the stream come after that: before it
  // they would stand in its way.
  const painted = new Promise((resolve) => {
    new PerformanceObserver((seen) => { if (seen.getEntriesByName("first-contentful-paint").length) resolve(); }).observe({ type: "paint", buffered: true });
    addEventListener("load", () => setTimeout(resolve, 1000)); // a page that nobody looks at is not painted
  });
  const loaded = new Promise((resolve) => addEventListener("load", resolve));
  const { htmx: address, seen, after } = document.currentScript.dataset;
  let lost = "";
  const notice = byId("notice");
  const say = (text) => { notice.textContent = text || lost; notice.hidden = !notice.textContent; };
  document.addEventListener("unscripted", () => { // what a script would have shown is shown as to readers without scripts
    document.querySelectorAll(".awaited").forEach((part) => part.classList.remove("awaited"));
    document.querySelectorAll("main noscript").forEach((part) => { part.outerHTML = part.textContent; });
  });
  const lacking = () => { // a script that does not arrive
    document.dispatchEvent(new CustomEvent("unscripted"));
    lost = "A part of this page could not be loaded: it is shown without its controls. Load the page again.";
    say("");
  };
  const load = (source) => new Promise((resolve) => {
    const script = document.createElement("script");
    script.async = false; // one after the other
    script.onload = resolve;
    script.onerror = () => { lacking(); resolve(); };
    script.src = source;
    document.head.append(script);
  });
  painted.then(() => {
    document.documentElement.classList.add("loaded");
    after.split(" ").filter(Boolean).forEach(load);
    requestAnimationFrame(() => requestAnimationFrame(() => performance.mark("shown"))); // what waited is on the screen too
  });
  const ready = Promise.all([painted, loaded]).then(() => address && load(address)); // htmx begins at once only in a complete page
  // a button that htmx serves may be pressed before it is there: it is pressed again then
  const early = new Set();
  const remember = (event) => { const button = event.target.closest("button[hx-post]"); if (button) early.add(button); };
  document.addEventListener("click", remember);
  ready.then(() => { document.removeEventListener("click", remember); early.forEach((b) => { if (b.isConnected) b.click(); }); });

  // theme: a cookie, so that the server makes the page in it at once
  const theme = byId("theme");
  if (theme) {
    theme.hidden = false;
    theme.addEventListener("click", () => {
      const root = document.documentElement;
      const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
      root.dataset.theme = dark ? "light" : "dark";
      document.cookie = `theme=${root.dataset.theme};path=/;max-age=31536000;samesite=strict`;
      document.dispatchEvent(new CustomEvent("theme"));
    });
  }

  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => document.dispatchEvent(new CustomEvent("theme")));

  // forms whose choices show something: no need for their button
  document.addEventListener("change", (event) => {
    const form = event.target.closest("form[data-keep]");
    if (form && event.target.tagName === "SELECT") form.requestSubmit();
  });
  document.addEventListener("submit", (event) => { // empty fields make long addresses
    for (const field of event.target.querySelectorAll("input:not([type=image]), select")) {
      if (event.target.method === "get" && field.name && field.value === "") field.disabled = true;
    }
  });
  window.addEventListener("pageshow", () => document.querySelectorAll(":disabled").forEach((f) => { f.disabled = false; }));

  // keys
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName)) return;
    if (event.key === "/") { byId("find").focus(); event.preventDefault(); }
    else if (event.key === "t" && theme) theme.click();
    else if (event.key === "[" || event.key === "]") {
      const link = document.querySelector(event.key === "[" ? "a[rel=prev]" : "a[rel=next]");
      if (link) link.click();
    } else if (event.key === "?") location.href = "/keys";
  });

  const end = byId("sign-out");
  if (end) end.addEventListener("click", async () => {
    const word = JSON.parse(document.body.getAttribute("hx-headers") || "{}");
    await fetch("/v1/session", { method: "DELETE", headers: word });
    location.href = "/sign-in";
  });

  // live: the stream says that something changed, then the part of the page that shows it is asked for again
  const state = byId("live-state");
  let last = 0, timer = null, busy = false, missed = false;
  const renew = () => {
    timer = null;
    const part = byId("live");
    if (!part || document.hidden) return;
    if (busy) { missed = true; return; } // what is on its way may have been made before the change
    const active = document.activeElement;
    if (active && /^(SELECT|INPUT)$/.test(active.tagName) && part.contains(active)) { last = Date.now(); plan(); return; } // somebody chooses
    busy = true; last = Date.now();
    const open = [...part.querySelectorAll("details[open][id]")].map((d) => d.id);
    ready.then(() => window.htmx
      ? htmx.ajax("GET", location.pathname + location.search, { source: part, target: part, select: "#live", swap: "outerHTML" })
      : location.reload()
    ).then(() => {
      open.forEach((id) => { const d = byId(id); if (d) d.open = true; });
      state.textContent = `live, renewed ${new Date().toISOString().slice(11, 19)} UTC`;
      document.dispatchEvent(new CustomEvent("renewed"));
    }).catch(() => {}).finally(() => { busy = false; if (missed) { missed = false; plan(); } });
  };
  const plan = () => { if (timer === null) timer = setTimeout(renew, Math.max(0, last + PAUSE_MS - Date.now())); };
  document.addEventListener("visibilitychange", () => { if (!document.hidden) plan(); });
  const follow = (lost) => {
    const stream = new EventSource("/live");
    stream.addEventListener("connected", (event) => {
      state.textContent = "live"; say("");
      if (lost || (seen && event.data && seen !== event.data)) plan(); // something changed since the page was made
      lost = false;
    });
    for (const name of ["visits", "alerts", "letters"]) {
      stream.addEventListener(name, () => {
        say("");
        const part = byId("live");
        if (part && part.dataset.live.split(" ").includes(name)) plan();
      });
    }
    stream.addEventListener("database", () => say("The database does not answer: what you see is what was known before."));
    stream.onerror = () => {
      lost = true;
      say(`No connection to the service since ${new Date().toISOString().slice(11, 19)} UTC: what you see is what was known before.`);
      state.textContent = "not live";
    };
    addEventListener("pagehide", () => stream.close(), { once: true });
  };
  if (byId("live") && window.EventSource) {
    painted.then(() => follow(false));
    addEventListener("pageshow", (event) => { if (event.persisted) follow(true); }); // by the button back: as it was left
  }
})();
