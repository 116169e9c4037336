// The images of a visit: blink, hide the detections, and a click that asks why. They may come after the page.
"use strict";
(() => {
  const begin = () => {
    const tools = document.getElementById("viewer-tools"), plates = document.getElementById("plates");
    if (!tools || !tools.hidden) return;
    tools.hidden = false;
    const blink = document.getElementById("blink"), marks = document.getElementById("detections");
    const figures = [...plates.children];
    let timer = null, turn = 0;
    const press = (button, on) => button.setAttribute("aria-pressed", String(on));
    const show = (k) => figures.forEach((f, n) => { f.hidden = k !== null && n !== k; });
    blink.addEventListener("click", () => {
      const on = timer === null;
      press(blink, on);
      plates.classList.toggle("blinking", on);
      if (on) { show(turn); timer = setInterval(() => { turn = (turn + 1) % figures.length; show(turn); }, 700); }
      else { clearInterval(timer); timer = null; show(null); }
    });
    marks.addEventListener("click", () => press(marks, !plates.classList.toggle("hover-none")));
    // the browser says where in the picture as it is drawn; the address says where in the image
    for (const picture of plates.querySelectorAll("input[type=image]")) {
      picture.addEventListener("click", (event) => {
        if (event.clientX === 0 && event.clientY === 0) return; // by a key: the middle
        event.preventDefault();
        const box = picture.getBoundingClientRect(), form = picture.form;
        const x = (event.clientX - box.left) / box.width * picture.dataset.width;
        const y = (event.clientY - box.top) / box.height * picture.dataset.height;
        location.href = `/why?visit=${form.visit.value}&detector=${form.detector.value}&at.x=${Math.round(x)}&at.y=${Math.round(y)}` + (form.elements.part ? `&part=${form.elements.part.value}` : "");
      });
    }
  };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName) && event.target.type !== "image") return;
    const button = document.getElementById({ b: "blink", m: "detections" }[event.key] || "-");
    if (button) button.click();
  });
  document.addEventListener("htmx:afterSettle", begin);
  begin();
})();
