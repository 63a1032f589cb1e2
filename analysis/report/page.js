"use strict";
(() => {
  const index = JSON.parse(document.getElementById("index").textContent);
  const tip = document.getElementById("tip");

  // Marks of a chart carry their text for screen readers; a pointer gets the same text.
  document.addEventListener("pointerover", (event) => {
    const mark = event.target.closest && event.target.closest(".chart svg [aria-label]");
    const label = mark && mark.getAttribute("aria-roledescription") !== "group mark container" && mark.tagName === "path" ? mark.getAttribute("aria-label") : "";
    tip.hidden = !label;
    if (label) tip.textContent = label;
  });
  document.addEventListener("pointermove", (event) => {
    if (tip.hidden) return;
    tip.style.left = Math.max(8, Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8)) + "px";
    tip.style.top = Math.max(8, event.clientY - tip.offsetHeight - 12) + "px";
  });

  const form = document.getElementById("filters");
  if (!form) return;
  const cards = document.getElementById("cards"), found = document.getElementById("found"), where = document.getElementById("where");
  const previous = document.getElementById("previous"), next = document.getElementById("next");
  const PAGE = 12;
  const loaded = new Map(); // task -> array of chunks
  let shown = [], page = 0, task = index.tasks[0];

  window.vlmSamples = (id, part, documents) => { loaded.get(id).chunks[part] = documents; };

  const load = (entry) => {
    if (!loaded.has(entry.id)) {
      const state = { chunks: [] };
      loaded.set(entry.id, state);
      state.ready = Promise.all(entry.files.map((file) => new Promise((done, fail) => {
        const script = document.createElement("script");
        script.src = file;
        script.onload = done;
        script.onerror = () => fail(new Error(file));
        document.head.append(script);
      }))).then(() => {
        state.all = state.chunks.flat();
        for (const doc of state.all) doc.s = [doc.i, doc.q, doc.t, ...doc.r.map((cell) => (cell ? cell[0] : ""))].join("\n").toLowerCase();
      });
    }
    const state = loaded.get(entry.id);
    return state.ready.then(() => state.all);
  };

  const make = (tag, name, text) => {
    const node = document.createElement(tag);
    if (name) node.className = name;
    if (text !== undefined) node.append(plain(text));
    return node;
  };

  // Control and direction characters are drawn as their code point, so that a model cannot rearrange the page's text.
  const CONTROL = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]|[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/g;
  const plain = (text) => {
    const box = document.createDocumentFragment();
    let at = 0;
    for (const match of text.matchAll(CONTROL)) {
      box.append(text.slice(at, match.index));
      const mark = document.createElement("span");
      mark.className = "ctl";
      mark.textContent = "U+" + match[0].charCodeAt(0).toString(16).toUpperCase().padStart(4, "0");
      box.append(mark);
      at = match.index + match[0].length;
    }
    box.append(text.slice(at));
    return box;
  };

  const isRight = (cell) => (cell && cell[1] !== null ? cell[1] >= 0.5 : null);
  const WHO = {
    all: ["everything", () => true],
    differ: ["runs disagree", (right) => right.includes(true) && right.includes(false)],
    right: ["all right", (right) => right.every((r) => r === true)],
    wrong: ["all wrong", (right) => right.every((r) => r === false)],
  };
  const choices = () => {
    const list = Object.entries(WHO).map(([key, [label, test]]) => [key, label, test]);
    if (task.runs.length > 1) task.runs.forEach((run, i) => {
      list.push(["only-" + i, "only " + run + " right", (right) => right[i] === true && right.every((r, j) => j === i || r === false)]);
      list.push(["not-" + i, "only " + run + " wrong", (right) => right[i] === false && right.every((r, j) => j === i || r === true)]);
    });
    return list;
  };

  const fill = (select, pairs) => {
    const old = select.value;
    select.replaceChildren(...pairs.map(([value, label]) => { const option = make("option", "", label); option.value = value; return option; }));
    if (pairs.some(([value]) => value === old)) select.value = old;
  };

  const card = (doc) => {
    const box = make("article", "card");
    if (doc.m) {
      const image = make("img");
      image.loading = "lazy";
      image.alt = "Image of question " + doc.i;
      image.onload = () => { if (image.naturalWidth < 200) image.classList.add("small"); };
      image.src = index.media[doc.m[0]] + "/" + encodeURIComponent(doc.m[1]) + ".webp";
      box.append(image);
    }
    const body = make("div", "body");
    body.append(make("p", "meta", "#" + doc.i + (doc.y ? " · " + doc.y : "")));
    const question = make("p", "q", doc.q || "(no question logged)");
    const target = make("p", "t", "Target ");
    target.append(make("b", "", doc.t));
    const list = make("ul");
    doc.r.forEach((cell, i) => {
      const row = make("li");
      const run = make("span", "run");
      run.append(make("i", "dot c" + (index.runs.indexOf(task.runs[i]) % 8)), plain(task.runs[i]));
      row.append(run);
      if (cell) {
        const right = isRight(cell);
        const verdict = right === null ? "no score" : (right ? "✓ " : "✗ ") + (cell[1] === 0 || cell[1] === 1 ? (right ? "right" : "wrong") : cell[1].toFixed(2));
        const sure = cell[2] === null ? "" : " · " + Math.round(cell[2] * 100) + " % sure";
        row.append(make("span", "s" + (right === null ? "" : right ? " right" : " wrong"), verdict + sure));
        row.append(make("span", "a", cell[0] || "(empty answer)"));
      } else row.append(make("span", "s", "not logged"));
      list.append(row);
    });
    body.append(question, target, list);
    box.append(body);
    return box;
  };

  const draw = () => {
    const pages = Math.max(1, Math.ceil(shown.length / PAGE));
    page = Math.min(Math.max(page, 0), pages - 1);
    cards.replaceChildren(...shown.slice(page * PAGE, (page + 1) * PAGE).map(card));
    where.textContent = page + 1 + " / " + pages;
    previous.disabled = page === 0;
    next.disabled = page === pages - 1;
  };

  const filter = async () => {
    found.textContent = "Loading …";
    let all;
    try { all = await load(task); } catch (error) { found.textContent = "Cannot read " + error.message + ": keep report_data beside this page."; return; }
    const test = (choices().find(([key]) => key === form.who.value) || choices()[0])[2];
    const type = form.type.value, text = form.text.value.trim().toLowerCase();
    shown = all.filter((doc) => (!type || doc.y === type) && (!text || doc.s.includes(text)) && test(doc.r.map(isRight)));
    found.textContent = shown.length + " of " + all.length + " questions";
    page = 0;
    draw();
  };

  const choose = () => {
    task = index.tasks.find((entry) => String(entry.id) === form.task.value) || index.tasks[0];
    fill(form.who, choices());
    fill(form.type, [["", "all"], ...task.types.map((name) => [name, name])]);
    form.type.disabled = !task.types.length;
    filter();
  };

  fill(form.task, index.tasks.map((entry) => [String(entry.id), entry.name]));
  form.addEventListener("submit", (event) => event.preventDefault());
  form.task.addEventListener("change", choose);
  form.who.addEventListener("change", filter);
  form.type.addEventListener("change", filter);
  let wait = 0;
  form.text.addEventListener("input", () => { clearTimeout(wait); wait = setTimeout(filter, 120); });
  previous.addEventListener("click", () => { page -= 1; draw(); });
  next.addEventListener("click", () => { page += 1; draw(); });
  choose();
})();
