// The sky on a canvas of its own: cells by their counts, objects as points when near, a map of others as outlines.
"use strict";
(() => {
  const box = document.getElementById("sky");
  if (!box) return;
  box.hidden = false;
  const canvas = document.getElementById("sky-map"), g = canvas.getContext("2d"), where = document.getElementById("sky-where");
  const DEG = Math.PI / 180, NEAR_DEG = 3, MOST_POINTS = 10000, ONE = 5; // the shade of cells that all hold the same
  const STEPS = [45, 30, 15, 10, 5, 2, 1, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001];
  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const swatches = [...document.querySelectorAll("#sky-legend > .swatch")];
  const shades = swatches.map((s) => getComputedStyle(s).backgroundColor);
  const view = { ra: 0, dec: 0, scale: 100 };
  let density = null, outlines = [], points = [], wait = null, moved = false, whole = null;

  // orthographic, east to the left
  const project = (ra, dec) => {
    const l = (ra - view.ra) * DEG, d = dec * DEG, d0 = view.dec * DEG;
    const front = Math.sin(d0) * Math.sin(d) + Math.cos(d0) * Math.cos(d) * Math.cos(l);
    const x = Math.cos(d) * Math.sin(l), y = Math.cos(d0) * Math.sin(d) - Math.sin(d0) * Math.cos(d) * Math.cos(l);
    return front < 0 ? null : [canvas.clientWidth / 2 - x * view.scale, canvas.clientHeight / 2 - y * view.scale];
  };
  const placeAt = (px, py) => {
    const x = (canvas.clientWidth / 2 - px) / view.scale, y = (canvas.clientHeight / 2 - py) / view.scale;
    const rho = Math.hypot(x, y);
    if (rho > 1) return null;
    const c = Math.asin(rho), d0 = view.dec * DEG;
    if (rho === 0) return [view.ra, view.dec];
    const dec = Math.asin(Math.max(-1, Math.min(1, Math.cos(c) * Math.sin(d0) + y * Math.sin(c) * Math.cos(d0) / rho))) / DEG;
    const ra = view.ra + Math.atan2(x * Math.sin(c), rho * Math.cos(d0) * Math.cos(c) - y * Math.sin(d0) * Math.sin(c)) / DEG;
    return [(ra % 360 + 360) % 360, dec];
  };
  const radius = () => Math.asin(Math.min(1, Math.hypot(canvas.clientWidth, canvas.clientHeight) / 2 / view.scale)) / DEG;

  function path(ras, decs) {
    g.beginPath();
    for (let k = 0; k < ras.length; k++) {
      const p = project(ras[k], decs[k]);
      if (!p) return false;
      if (k) g.lineTo(p[0], p[1]); else g.moveTo(p[0], p[1]);
    }
    g.closePath();
    return true;
  }

  function grid() {
    const step = STEPS.find((s) => s * DEG * view.scale < 170) || STEPS[STEPS.length - 1], reach = Math.min(90, radius() * 1.1);
    const wide = Math.min(180, reach / Math.max(0.02, Math.cos(Math.min(89, Math.abs(view.dec) + reach) * DEG)));
    const digits = Math.max(0, -Math.floor(Math.log10(step)));
    g.strokeStyle = css("--line"); g.fillStyle = css("--dim"); g.lineWidth = 1; g.font = "12px system-ui, sans-serif";
    const line = (of) => {
      g.beginPath();
      let pen = false;
      for (let k = 0; k <= 60; k++) {
        const p = project(...of(k / 60));
        if (p && pen) g.lineTo(p[0], p[1]); else if (p) g.moveTo(p[0], p[1]);
        pen = !!p;
      }
      g.stroke();
    };
    const written = [];
    const label = (text, x, y) => { // whole, or not at all; none over another
      const w = g.measureText(text).width, width = canvas.clientWidth, height = canvas.clientHeight;
      if (x < 2 || x + w > width - 2 || y < 14 || y > height - 4) return;
      if (written.some((o) => Math.abs(o.y - y) < 14 && x < o.x + o.w + 6 && o.x < x + w + 6)) return;
      written.push({ x, y, w });
      g.fillText(text, x, y);
    };
    for (let d = Math.ceil((view.dec - reach) / step) * step; d <= view.dec + reach; d += step) {
      if (Math.abs(d) > 90) continue;
      line((t) => [view.ra + wide * (2 * t - 1), d]);
      const p = project(view.ra, d);
      if (p) label(`${d > 0 ? "+" : ""}${d.toFixed(digits)}°`, 6, p[1] - 4);
    }
    for (let r = Math.ceil((view.ra - wide) / step) * step; r <= view.ra + wide; r += step) {
      line((t) => [r, Math.max(-90, Math.min(90, view.dec + reach * (2 * t - 1)))]);
      const p = project(r, view.dec);
      if (p) label(`${((r % 360 + 360) % 360).toFixed(digits)}°`, p[0] + 4, canvas.clientHeight - 6);
    }
  }

  function draw() {
    const ratio = devicePixelRatio || 1, width = canvas.clientWidth, height = canvas.clientHeight;
    if (canvas.width !== Math.round(width * ratio)) { canvas.width = Math.round(width * ratio); canvas.height = Math.round(height * ratio); }
    g.setTransform(ratio, 0, 0, ratio, 0, 0);
    g.clearRect(0, 0, width, height);
    const top = Math.log(density.most + 1);
    density.cells.forEach((_, k) => {
      if (!path(density.ra[k], density.dec[k])) return;
      g.fillStyle = shades[density.same ? ONE : Math.min(8, Math.floor(9 * Math.log(density.counts[k] + 0.5) / top))];
      g.fill();
    });
    grid();
    g.strokeStyle = css("--focus"); g.lineWidth = 2;
    for (const [ras, decs] of outlines) if (path(ras, decs)) g.stroke();
    g.fillStyle = css("--ink"); g.strokeStyle = css("--card");
    for (const p of points) {
      const q = project(p.ra, p.dec);
      if (q) { g.fillRect(q[0] - 2, q[1] - 2, 4, 4); g.strokeRect(q[0] - 2.5, q[1] - 2.5, 5, 5); }
    }
    if (!("drawn" in box.dataset)) performance.mark("shown"); // the first time
    box.dataset.drawn = String(density.cells.length);
    box.dataset.points = String(points.length);
    document.getElementById("sky-points").hidden = !points.length;
  }

  function near(pause) { // single objects, when few degrees are seen
    clearTimeout(wait);
    if (box.dataset.of !== "objects" || radius() > NEAR_DEG) { points = []; return; }
    wait = setTimeout(async () => {
      const ask = `/v1/objects?ra=${view.ra}&dec=${view.dec}&radius=${3600 * radius()}&columns=ra,dec&limit=${MOST_POINTS}`;
      const answer = await fetch(ask);
      if (answer.ok) { points = (await answer.json()).rows; draw(); }
    }, pause);
  }
  const changed = (pause = 200) => { draw(); near(pause); }; // who turns and zooms asks once, in the end

  function fit() {
    let x = 0, y = 0, z = 0;
    const each = (of) => density.ra.forEach((ras, k) => ras.forEach((ra, j) => of(ra * DEG, density.dec[k][j] * DEG)));
    each((a, d) => { x += Math.cos(d) * Math.cos(a); y += Math.cos(d) * Math.sin(a); z += Math.sin(d); });
    const length = Math.hypot(x, y, z) || 1;
    view.ra = (Math.atan2(y, x) / DEG + 360) % 360; view.dec = Math.asin(z / length) / DEG;
    let far = 0;
    each((a, d) => { far = Math.max(far, 1 - (Math.cos(d) * Math.cos(a) * x + Math.cos(d) * Math.sin(a) * y + Math.sin(d) * z) / length); });
    const side = Math.min(canvas.clientWidth, canvas.clientHeight);
    view.scale = 0.46 * side / Math.max(1e-5, far >= 1 ? 1 : Math.sqrt(2 * far - far * far)); // sine of the farthest corner
    whole = view.scale;
    changed(0);
  }
  function zoom(by) { view.scale = Math.max(whole * 0.25, Math.min(5e7, view.scale * by)); changed(); }
  function turn(dx, dy) { // px to the right, px down
    const step = 1 / view.scale / DEG;
    view.dec = Math.max(-90, Math.min(90, view.dec + dy * step));
    view.ra = ((view.ra + dx * step / Math.max(0.05, Math.cos(view.dec * DEG))) % 360 + 360) % 360;
    changed();
  }
  const search = (place) => {
    if (!place) return;
    const cell = 3600 * 58.6 / 2 ** density.order;
    const reach = Math.max(2, Math.min(36000, box.dataset.of === "objects" && points.length ? 3600 * radius() / 40 : cell / 2));
    location.href = `/search?q=${encodeURIComponent(`${place[0].toFixed(6)} ${place[1] < 0 ? "" : "+"}${place[1].toFixed(6)}`)}&radius=${reach.toFixed(1)}`;
  };

  let held = null;
  canvas.addEventListener("pointerdown", (e) => { held = [e.clientX, e.clientY]; moved = false; canvas.setPointerCapture(e.pointerId); });
  canvas.addEventListener("pointermove", (e) => {
    const place = placeAt(e.offsetX, e.offsetY);
    where.textContent = place ? `${place[0].toFixed(5)} ${place[1] < 0 ? "" : "+"}${place[1].toFixed(5)}` : "";
    if (!held) return;
    const dx = e.clientX - held[0], dy = e.clientY - held[1];
    if (!moved && Math.hypot(dx, dy) < 4) return;
    moved = true; held = [e.clientX, e.clientY];
    turn(dx, dy);
  });
  canvas.addEventListener("pointerup", (e) => { if (held && !moved) search(placeAt(e.offsetX, e.offsetY)); held = null; });
  canvas.addEventListener("wheel", (e) => { e.preventDefault(); zoom(Math.exp(-e.deltaY / 500)); }, { passive: false });
  canvas.addEventListener("keydown", (e) => {
    const move = { ArrowLeft: [60, 0], ArrowRight: [-60, 0], ArrowUp: [0, 60], ArrowDown: [0, -60] }[e.key];
    if (move) turn(...move);
    else if (e.key === "+" || e.key === "=") zoom(1.5);
    else if (e.key === "-") zoom(1 / 1.5);
    else if (e.key === "0") fit();
    else if (e.key === "Enter") search([view.ra, view.dec]);
    else return;
    e.preventDefault();
  });
  document.getElementById("sky-in").addEventListener("click", () => zoom(1.5));
  document.getElementById("sky-out").addEventListener("click", () => zoom(1 / 1.5));
  document.getElementById("sky-all").addEventListener("click", fit);

  document.getElementById("moc-form").addEventListener("submit", async (event) => {
    event.preventDefault();
    const said = document.getElementById("moc-said");
    said.textContent = "comparing …";
    const word = JSON.parse(document.body.getAttribute("hx-headers") || "{}");
    const answer = await fetch(event.target.action, { method: "POST", headers: word, body: new FormData(event.target) });
    const told = await answer.json();
    if (!answer.ok) { said.textContent = told.detail; return; }
    outlines = told.ra.map((ras, k) => [ras, told.dec[k]]);
    said.textContent = `${told.what}: ${told.areaSqDeg.toLocaleString("en")} square degrees, of which visits cover ` +
      `${told.coveredSqDeg.toLocaleString("en")} (${(100 * told.coveredFraction).toFixed(1)} %). It is outlined on the map.`;
    draw();
  });

  async function load(first) {
    const answer = await fetch(`/v1/sky/density?of=${box.dataset.of}`);
    if (!answer.ok) { where.textContent = (await answer.json()).detail; return; }
    density = await answer.json();
    density.most = density.counts.reduce((a, b) => Math.max(a, b), 1);
    density.same = density.counts.every((n) => n === density.most);
    swatches.forEach((swatch, k) => { swatch.hidden = density.same && k !== ONE; });
    for (const id of ["sky-low", "sky-scale"]) document.getElementById(id).hidden = density.same;
    document.getElementById("sky-high").textContent = density.most.toLocaleString("en") + (density.same ? " in each" : "");
    if (first) fit(); else changed();
  }
  document.addEventListener("theme", () => { if (density) draw(); });
  document.addEventListener("renewed", () => load(false));
  addEventListener("resize", () => { if (density) draw(); });
  load(true);
})();
