// The light curve of an object: uPlot for axes, zoom and cursor, points of our own (one canvas pass, 100 000 of them at once).
"use strict";
(() => {
  const box = document.getElementById("curve");
  if (!box) return;
  const tools = document.getElementById("curve-tools");
  const asWithoutScripts = () => document.dispatchEvent(new CustomEvent("unscripted"));
  if (!window.uPlot) { asWithoutScripts(); return; }
  const id = box.dataset.object, note = document.getElementById("curve-note");
  const want = { y: "flux", of: "psf", detections: true, forced: true, fainter: true, limits: true, days: 0, fold: false, bands: new Set() };
  const ZERO = 31.4; // magnitude of 1 nJy
  const POINT = 0, LIMIT = 1, FAINTER = 2; // FAINTER: a negative flux, drawn at the magnitude of its amount
  let table = null, plot = null, shown = null, chosen = -1, wait = null;

  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const grouped = (v) => v.toLocaleString("en", { maximumFractionDigits: 6 }).replaceAll(",", "\u2009");
  const colours = {};
  function readColours() {
    for (const band of "ugrizy") {
      const probe = document.createElement("span");
      probe.className = `band-${band}`;
      box.append(probe);
      colours[band] = getComputedStyle(probe).color;
      probe.remove();
    }
    colours[""] = css("--dim");
  }

  // from the columns of the answer to what is drawn: x sorted, y, error, and which point of the answer each is
  function prepare() {
    const c = table.columns, n = c.mjd.length, period = Number(document.getElementById("curve-period").value);
    const fold = want.fold && period > 0, flux = c[`${want.of}Flux`], error = c[`${want.of}FluxErr`];
    let count = 0;
    const keep = new Uint32Array(n);
    for (let k = 0; k < n; k++) {
      if (c.forced[k] ? !want.forced : !want.detections) continue;
      if (flux[k] === null || !want.bands.has(c.band[k])) continue;
      if (want.y === "mag" && !(flux[k] >= 3 * error[k])) {
        if (!(error[k] > 0) || !(flux[k] <= -3 * error[k] ? want.fainter : want.limits)) continue;
      }
      keep[count++] = k;
    }
    const which = keep.subarray(0, count);
    if (fold) {
      const phase = (k) => { const p = (c.mjd[k] - c.mjd[0]) / period; return p - Math.floor(p); };
      which.sort((a, b) => phase(a) - phase(b));
    }
    const x = new Float64Array(count), y = new Float64Array(count), e = new Float64Array(count), kind = new Uint8Array(count);
    for (let j = 0; j < count; j++) {
      const k = which[j];
      if (fold) { const p = (c.mjd[k] - c.mjd[0]) / period; x[j] = p - Math.floor(p); } else x[j] = c.mjd[k];
      if (want.y === "flux") { y[j] = flux[k]; e[j] = error[k] || 0; }
      else if (Math.abs(flux[k]) >= 3 * error[k]) {
        const amount = Math.abs(flux[k]);
        y[j] = ZERO - 2.5 * Math.log10(amount); e[j] = 1.0857 * error[k] / amount; kind[j] = flux[k] < 0 ? FAINTER : POINT;
      } else { y[j] = ZERO - 2.5 * Math.log10(3 * error[k]); kind[j] = LIMIT; }
    }
    return { x, y, e, kind, which, fold };
  }

  function paint(u) {
    const { x, y, e, kind, which } = shown, c = table.columns, many = which.length > 4000;
    const g = u.ctx, ratio = devicePixelRatio || 1, size = (many ? 2 : 6) * ratio, cap = 5 * ratio;
    const { left, top, width, height } = u.bbox;
    const sx = u.scales.x, sy = u.scales.y, ax = width / (sx.max - sx.min), turned = want.y === "mag";
    const ay = height / (sy.max - sy.min);
    const px = (v) => left + (v - sx.min) * ax;
    const py = turned ? (v) => top + (v - sy.min) * ay : (v) => top + height - (v - sy.min) * ay;
    g.save();
    g.beginPath(); g.rect(left, top, width, height); g.clip();
    for (const forced of [1, 0]) for (const band of want.bands) { // detections lie on top
      g.fillStyle = g.strokeStyle = colours[band] || colours[""];
      g.lineWidth = 1.5 * ratio;
      for (let j = 0; j < which.length; j++) {
        const k = which[j];
        if (c.forced[k] !== forced || c.band[k] !== band || x[j] < sx.min || x[j] > sx.max) continue;
        const a = px(x[j]), b = py(y[j]);
        if (many) { g.fillRect(a - size / 2, b - size / 2, size, size); continue; }
        g.beginPath();
        if (kind[j] === LIMIT) { // a bar with an arrow below it
          g.moveTo(a - size, b); g.lineTo(a + size, b); g.moveTo(a, b); g.lineTo(a, b + 2 * size);
          g.moveTo(a - size / 2, b + 1.3 * size); g.lineTo(a, b + 2 * size); g.lineTo(a + size / 2, b + 1.3 * size); g.stroke(); continue;
        }
        const up = py(y[j] - e[j]), down = py(y[j] + e[j]);
        g.moveTo(a, up); g.lineTo(a, down); // wider ends: they show beside the marker where the error is small
        g.moveTo(a - cap, up); g.lineTo(a + cap, up); g.moveTo(a - cap, down); g.lineTo(a + cap, down); g.stroke();
        const r = (c.forced[k] ? 6 : kind[j] === FAINTER ? 4 : 3) * ratio; // what is forced lies around the detection of the same image
        g.beginPath();
        if (kind[j] === FAINTER) { g.moveTo(a - 1.2 * r, b - r); g.lineTo(a + 1.2 * r, b - r); g.lineTo(a, b + 1.2 * r); g.closePath(); }
        else g.arc(a, b, r, 0, 7);
        if (c.forced[k] || kind[j] === FAINTER) g.stroke(); else g.fill();
      }
    }
    if (!turned && sy.min < 0 && sy.max > 0) {
      g.strokeStyle = css("--dim"); g.setLineDash([4 * ratio, 4 * ratio]);
      g.beginPath(); g.moveTo(left, py(0)); g.lineTo(left + width, py(0)); g.stroke(); g.setLineDash([]);
    }
    if (chosen >= 0 && chosen < which.length) {
      g.strokeStyle = css("--focus"); g.lineWidth = 3 * ratio;
      g.beginPath(); g.arc(px(x[chosen]), py(y[chosen]), 8 * ratio, 0, 7); g.stroke();
    }
    g.restore();
  }

  function limitsOf(values, errors) {
    let low = Infinity, high = -Infinity;
    for (let j = 0; j < values.length; j++) {
      low = Math.min(low, values[j] - (errors[j] || 0)); high = Math.max(high, values[j] + (errors[j] || 0));
    }
    if (!(low <= high)) return [0, 1];
    const pad = 0.06 * (high - low) || 1;
    return [low - pad, high + pad];
  }

  // how many points of which kind are drawn, in words
  function told() {
    const { kind, which } = shown, of = [0, 0, 0];
    let forced = 0;
    for (let j = 0; j < which.length; j++) { of[kind[j]]++; forced += table.columns.forced[which[j]]; }
    const parts = [`${grouped(which.length - forced)} detections and ${grouped(forced)} forced of ${grouped(table.total)} points`];
    if (of[FAINTER]) parts.push(`${grouped(of[FAINTER])} fainter than the template`);
    if (of[LIMIT]) parts.push(`${grouped(of[LIMIT])} upper limits`);
    return parts.join(", ");
  }

  function draw() {
    const begin = performance.now();
    shown = prepare();
    const whose = want.of === "psf" ? "difference" : "total";
    const [xmin, xmax] = shown.fold ? [0, 1] : limitsOf(shown.x, []);
    const [ymin, ymax] = limitsOf(shown.y, shown.e);
    if (plot) plot.destroy();
    box.textContent = "";
    const ink = css("--dim"), grid = { stroke: css("--line"), width: 1 };
    const rem = parseFloat(getComputedStyle(document.documentElement).fontSize), font = `${Math.round(0.8 * rem)}px ${getComputedStyle(document.body).fontFamily}`;
    const height = Math.round(Math.max(20 * rem, Math.min(34 * rem, innerHeight * 0.42)));
    plot = new uPlot({
      width: box.clientWidth, height, legend: { show: false },
      cursor: { points: { show: false }, drag: { x: true, y: false } },
      scales: { x: { time: false, range: (u, a, b) => u.data && a === shown.x[0] && b === shown.x[shown.x.length - 1] ? [xmin, xmax] : [a, b] },
                y: { dir: want.y === "mag" ? -1 : 1, range: () => [ymin, ymax] } },
      axes: [{ stroke: ink, grid, ticks: grid, font, labelFont: font, size: 2.4 * rem, space: 7 * rem, values: (u, at, axis, space, step) => at.map((v) => v.toFixed((String(Number(step.toFixed(6))).split(".")[1] || "").length)), label: shown.fold ? "phase" : "MJD (TAI)", labelSize: 1.4 * rem },
             { stroke: ink, grid, ticks: grid, font, labelFont: font, size: 5.2 * rem, space: 2.2 * rem, values: (u, at) => at.map((v) => grouped(v)), label: want.y === "mag" ? `${whose} AB magnitude` : `${whose} flux / nJy`, labelSize: 1.4 * rem }],
      series: [{}, { paths: () => null, points: { show: false } }],
      hooks: { draw: [paint], setCursor: [(u) => { if (u.cursor.idx != null && u.cursor.left >= 0) near(u); }] },
    }, [shown.x, shown.y], box);
    if (!("painted" in box.dataset)) performance.mark("shown"); // the first time
    box.dataset.painted = (performance.now() - begin).toFixed(1);
    note.textContent = told() + (table.binDays ? `, means of bins of ${table.binDays.toPrecision(3)} d` : "") + (shown.fold ? ", folded" : "");
  }

  // the point under the cursor: the nearest on the screen among those of about the same time
  function near(u) {
    const { x, y } = shown, at = u.cursor.idx, reach = 40;
    let best = -1, least = Infinity;
    for (let j = Math.max(0, at - reach); j < Math.min(x.length, at + reach); j++) {
      const d = (u.valToPos(x[j], "x") - u.cursor.left) ** 2 + (u.valToPos(y[j], "y") - u.cursor.top) ** 2;
      if (d < least) { least = d; best = j; }
    }
    if (best >= 0 && least < 900 && best !== chosen) choose(best);
  }

  function choose(j) {
    chosen = j;
    plot.redraw(false);
    const c = table.columns, k = shown.which[j];
    const magnitude = `${shown.y[j].toFixed(2)} ± ${shown.e[j].toFixed(2)} mag`;
    const value = want.y !== "mag" ? `${Math.round(shown.y[j])} ± ${Math.round(shown.e[j])} nJy` : [
      magnitude, `fainter than ${shown.y[j].toFixed(2)} mag (3 sigma)`, `fainter than the template by the flux of ${magnitude}`,
    ][shown.kind[j]];
    const text = document.getElementById("trip-what"), triplet = document.getElementById("triplet");
    if (!text) return;
    text.textContent = `${c.forced[k] ? "Forced photometry" : "Detection"} in ${c.band[k]}, MJD ${c.mjd[k].toFixed(5)}, ${value}, `;
    const link = document.createElement("a");
    link.href = `/visit/${c.visit[k]}/${c.detector[k]}`;
    link.textContent = `visit ${c.visit[k]} · ${c.detector[k]}`;
    text.append(link);
    clearTimeout(wait);
    wait = setTimeout(() => {
      const source = c.diaSourceId[k];
      document.getElementById("trip-none").hidden = !!source;
      triplet.hidden = !source;
      triplet.dataset.source = source;
      const gif = document.getElementById("trip-gif");
      gif.hidden = !source;
      if (source) { gif.href = `/v1/sources/${source}/stamps/blink.gif`; gif.download = `blink_${source}.gif`; }
      if (source) for (const image of triplet.querySelectorAll("img")) { image.hidden = false; image.src = `/v1/sources/${source}/stamps/${image.dataset.which}`; }
    }, 90);
  }
  document.querySelectorAll("#triplet img").forEach((image) => {
    const lacking = () => {
      if (image.className === "over") { image.hidden = true; return; } // a cutout without WCS
      document.getElementById("trip-none").hidden = false;
      document.getElementById("triplet").hidden = true;
      document.getElementById("trip-gif").hidden = true;
    };
    image.addEventListener("error", lacking);
    if (image.complete && !image.naturalWidth) lacking(); // it was asked for before this script was there
  });

  // blink: one cutout in the place of the other
  const blink = document.getElementById("trip-blink"), figures = [...document.querySelectorAll("#triplet figure")];
  let turning = null, turn = 0;
  const only = (k) => figures.forEach((f, n) => { f.hidden = k !== null && n !== k; });
  if (blink) {
    blink.hidden = false;
    blink.addEventListener("click", () => {
      const on = turning === null;
      blink.setAttribute("aria-pressed", String(on));
      document.getElementById("triplet").classList.toggle("blinking", on);
      if (on) { only(turn); turning = setInterval(() => { turn = (turn + 1) % figures.length; only(turn); }, 700); }
      else { clearInterval(turning); turning = null; only(null); }
    });
  }

  async function load() {
    let why = "the service does not answer";
    try {
      const answer = await fetch(`/v1/objects/${id}/curve?days=${want.days}`);
      why = `the service answers ${answer.status}`;
      const read = await answer.json();
      if (!answer.ok) throw new Error(read.detail || why);
      table = read;
    } catch (error) { // SyntaxError: a proxy's page; TypeError: no answer
      note.textContent = error instanceof SyntaxError || error instanceof TypeError ? `its points could not be read: ${why}` : error.message;
      if (!table) asWithoutScripts();
      return;
    }
    const bands = [...new Set(table.columns.band)].sort((a, b) => "ugrizy".indexOf(a) - "ugrizy".indexOf(b));
    if (!want.bands.size) {
      bands.forEach((b) => want.bands.add(b));
      const place = document.getElementById("curve-bands");
      for (const band of bands) {
        const button = document.createElement("button");
        button.type = "button"; button.textContent = band || "none"; button.setAttribute("aria-pressed", "true");
        button.addEventListener("click", () => {
          const on = !want.bands.has(band);
          if (on) want.bands.add(band); else want.bands.delete(band);
          button.setAttribute("aria-pressed", String(on));
          chosen = -1; draw();
        });
        place.append(button);
      }
    }
    tools.hidden = false;
    chosen = -1;
    draw();
  }

  tools.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    if (button.dataset.set) {
      const [name, value] = button.dataset.set.split("=");
      want[name] = value;
      for (const other of button.parentElement.querySelectorAll("button")) other.setAttribute("aria-pressed", String(other === button));
    } else if (button.dataset.flag) {
      want[button.dataset.flag] = !want[button.dataset.flag];
      button.setAttribute("aria-pressed", String(want[button.dataset.flag]));
    } else if (button.id === "curve-fold") {
      want.fold = !want.fold;
      button.setAttribute("aria-pressed", String(want.fold));
    } else return;
    chosen = -1; draw();
  });
  document.getElementById("curve-bin").addEventListener("change", (event) => { want.days = Number(event.target.value); load(); });
  document.getElementById("curve-period").addEventListener("change", () => { if (want.fold) { chosen = -1; draw(); } });
  document.getElementById("curve-search").addEventListener("click", async () => {
    const found = document.getElementById("curve-found");
    found.textContent = "looking …";
    const answer = await fetch(`/v1/objects/${id}/period`), said = await answer.json();
    if (!answer.ok) { found.textContent = said.detail; return; }
    found.textContent = "";
    const add = (parent, kind, text) => { const e = document.createElement(kind); e.textContent = text; parent.append(e); return e; };
    for (const warning of said.warnings) add(found, "p", warning).className = "note warn";
    const list = add(found, "ul", "");
    for (const { period, power, cycles, aliasOf } of said.periods) {
      const line = add(list, "li", ""), button = add(line, "button", ""), marks = [`power ${power.toFixed(2)}`];
      if (cycles < said.fewestCycles) marks.push(`less than ${said.fewestCycles} cycles seen (${cycles.toFixed(1)})`);
      if (aliasOf.length) marks.push(`alias of ${aliasOf.map((p) => `${p.toPrecision(4)} d`).join(", ")}`);
      button.type = "button"; button.textContent = `${period.toPrecision(5)} d`;
      button.addEventListener("click", () => {
        document.getElementById("curve-period").value = period.toPrecision(7);
        want.fold = true; document.getElementById("curve-fold").setAttribute("aria-pressed", "true");
        chosen = -1; draw();
      });
      line.append(` ${marks.join("; ")}`);
    }
    add(found, "p", `A peak as high as the first, anywhere in the search: chance ${said.falseAlarmProbability.toExponential(0)} in white noise with these errors. Slow changes and aliases are not in that number.`).className = "note";
  });
  box.addEventListener("keydown", (event) => {
    if (!shown || !shown.which.length) return;
    const last = shown.which.length - 1;
    const to = { ArrowLeft: Math.max(0, (chosen < 0 ? last + 1 : chosen) - 1), ArrowRight: Math.min(last, chosen + 1), Home: 0, End: last }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    choose(to);
  });
  document.addEventListener("theme", () => { readColours(); if (table) draw(); });
  let width = innerWidth;
  addEventListener("resize", () => { if (table && innerWidth !== width) { width = innerWidth; draw(); } });
  readColours();
  load();
})();
