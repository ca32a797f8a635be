(function (key, data) {
  "use strict";
  const MASK = "░";
  const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
  const steps = Math.max(...data.panes.map((pane) => pane.frames.length));

  // The state after `step` steps: replay the recorded changes from the start.
  function replay(pane, step) {
    const cells = pane.start.map((text) => ({
      text, given: text !== null, step: 0, confidence: null, back: 0, fresh: false,
    }));
    pane.frames.slice(0, step).forEach((changes, f) => {
      for (const [position, text, confidence] of changes) {
        const cell = cells[position];
        if (cell.text !== null) cell.back += 1;
        Object.assign(cell, { text, confidence, step: f + 1, fresh: f === step - 1 });
      }
    });
    return cells;
  }

  function describe(cell) {
    const words = [];
    if (cell.given) words.push("given");
    else if (cell.text === null) words.push("masked");
    else words.push(`revealed at step ${cell.step}`);
    if (cell.confidence !== null) words.push(`confidence ${cell.confidence.toFixed(2)}`);
    if (cell.back) words.push(`revised ${cell.back} times`.replace(/\b1 times/, "once"));
    return words.join(", ");
  }

  // A token is a span; the line breaks it ends with follow it as text of their own.
  function paint(span, cell, byOrder) {
    const masked = cell.text === null;
    const marks = {
      given: cell.given, mask: masked, fresh: cell.fresh && !masked,
      back: cell.fresh && masked, revised: cell.back > 0 && !masked,
    };
    span.className = Object.keys(marks).filter((name) => marks[name]).join(" ");
    const [, body, breaks] = (masked ? MASK : cell.text).match(/^([^]*?)(\n*)$/);
    span.textContent = body.replace(/\n/g, "↵\n") + "↵".repeat(breaks.length);
    span.nextSibling.data = breaks;
    span.title = describe(cell);
    const shade = byOrder ? cell.step / steps : cell.confidence;
    span.style.setProperty("--a", masked || shade === null ? 0 : shade);
    if (masked || cell.given) span.removeAttribute("data-step");
    else span.dataset.step = cell.step;
  }

  function start(root) {
    root.dataset.ready = "";
    const find = (name) => root.querySelector(name);
    const [play, back, next, order] = ["play", "back", "next", "order"].map((name) =>
      find(`[data-do=${name}]`));
    const slider = find("input"), speed = find("select"), place = find(".place");
    const detail = find(".detail");
    const texts = [...root.querySelectorAll(".text")];
    const counts = [...root.querySelectorAll(".count")];
    let now = 0, timer = null;

    texts.forEach((text, p) => {
      text.replaceChildren(...data.panes[p].start.flatMap(() =>
        [document.createElement("span"), document.createTextNode("")]));
      text.onclick = (event) => {
        const position = [...text.children].indexOf(event.target);
        if (position < 0) return;
        detail.textContent = `Position ${position}: ${event.target.title}`;
      };
    });
    slider.max = steps;

    function draw() {
      data.panes.forEach((pane, p) => {
        const step = Math.min(now, pane.frames.length);
        const cells = replay(pane, now);
        const byOrder = root.classList.contains("order");
        cells.forEach((cell, i) => paint(texts[p].children[i], cell, byOrder));
        const left = cells.filter((cell) => cell.text === null).length;
        const revised = cells.reduce((sum, cell) => sum + cell.back, 0);
        counts[p].textContent =
          `Block ${pane.block[step] + 1}/${pane.blocks}` +
          ` - Remaining: ${left} token${left === 1 ? "" : "s"}` +
          (pane.revisions ? `\nRevised: ${revised}` : "");
      });
      slider.value = now;
      slider.setAttribute("aria-valuetext", `step ${now} of ${steps}`);
      place.textContent = `step ${now}/${steps}`;
      back.disabled = now === 0;
      next.disabled = now === steps;
    }
    function go(step) {
      now = Math.max(0, Math.min(steps, step));
      draw();
    }
    function stop() {
      clearTimeout(timer);
      timer = null;
      play.textContent = "Play";
      counts.forEach((count) => count.setAttribute("aria-live", "polite"));
    }
    function tick() {
      if (!root.isConnected || now === steps) return stop();
      go(now + 1);
      const pause = Math.max(40, Math.min(600, 15000 / steps));
      timer = setTimeout(tick, pause / Number(speed.value));
    }
    function toggle() {
      if (timer !== null) return stop();
      if (now === steps) go(0);
      play.textContent = "Pause";
      // A reader of the screen would be flooded while it plays.
      counts.forEach((count) => count.setAttribute("aria-live", "off"));
      timer = setTimeout(tick, 0);
    }
    function jump(step) {
      stop();
      go(step);
    }

    play.onclick = toggle;
    back.onclick = () => jump(now - 1);
    next.onclick = () => jump(now + 1);
    slider.oninput = () => jump(Number(slider.value));
    order.onclick = () => {
      const on = root.classList.toggle("order");
      order.setAttribute("aria-pressed", on);
      draw();
    };
    const keys = {
      ArrowRight: () => jump(now + 1), ArrowLeft: () => jump(now - 1),
      Home: () => jump(0), End: () => jump(steps), " ": toggle,
    };
    root.onkeydown = (event) => {
      const native = event.target.matches("input, select") ||
        (event.key === " " && event.target.matches("button"));
      if (native || event.ctrlKey || event.altKey || event.metaKey) return;
      if (!keys[event.key]) return;
      event.preventDefault();
      keys[event.key]();
    };
    go(0);
    if (data.autoplay && !still) toggle();
  }

  // Not document.currentScript: some notebooks run scripts late. A page may also hold
  // the same player twice.
  document.querySelectorAll(`[data-dllm-player="${key}"]:not([data-ready])`)
    .forEach(start);
})
