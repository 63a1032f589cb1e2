"use strict";
(() => {
  const form = document.getElementById("filters");
  if (!form) return;
  const index = JSON.parse(document.getElementById("index").textContent);
  const cards = document.getElementById("cards"), found = document.getElementById("found");
  const previous = document.getElementById("previous"), next = document.getElementById("next");
  const place = document.getElementById("page"), pages = document.getElementById("pages");
  const PAGE = 12;
  let task = index.tasks[0], shown = [], page = 0, turn = 0;

  // Parts lie in the page (inline) or in script files beside it; each is read once, when it is needed.
  const arrived = new Map(), asked = new Map();
  window.vlmPart = (name, part) => { arrived.set(name, part); };
  const read = (name) => {
    if (!asked.has(name)) asked.set(name, new Promise((done, fail) => {
      const inline = document.getElementById(name);
      if (inline) return done(JSON.parse(inline.textContent));
      const script = document.createElement("script");
      script.src = "report_data/" + name + ".js";
      script.onload = () => { script.remove(); done(arrived.get(name)); };
      script.onerror = () => fail(new Error("report_data/" + name + ".js"));
      document.head.append(script);
    }));
    return asked.get(name);
  };
  const summary = (entry) => read("task-" + entry.id);
  const part = (entry, number) => read("task-" + entry.id + "-" + number);
  const parts = (entry) => Math.ceil(entry.n / index.part);
  // All at once: the browser fetches and parses one beside the other.
  const readAhead = (entry) => {
    for (let number = 0; number < parts(entry); number += 1) part(entry, number).catch(() => {});
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
  const make = (tag, name, text) => {
    const node = document.createElement(tag);
    if (name) node.className = name;
    if (text !== undefined) node.append(plain(text));
    return node;
  };

  // A click or Enter enlarges a picture; Escape or another click puts it back.
  const lens = document.getElementById("lens"), whole = lens.querySelector("img");
  const enlarge = (image) => {
    whole.src = image.src;
    whole.alt = image.alt;
    whole.className = image.className;
    lens.showModal();
  };
  lens.addEventListener("click", () => lens.close());

  // The probability of a whole answer is tiny where the answer is long: it is shown as such, not as 0 %.
  const percent = (sure) => sure < 0.1 ? "under 0.1 %" : (sure < 10 ? sure.toFixed(1) : Math.round(sure)) + " %";
  const verdict = (texts, i, at, right) => {
    const score = texts.score[i][at], mark = right === "-" ? "" : right === "1" ? "\u2713 " : "\u2717 ";
    if (texts.km) return mark + (texts.km[i][at] === null ? "no coordinates" : texts.km[i][at].toLocaleString("en", { maximumFractionDigits: texts.km[i][at] < 10 ? 1 : 0 }) + " km off");
    if (right === "-") return score === null ? "no score" : "score " + score;
    return mark + (score === 0 || score === 1 ? (right === "1" ? "right" : "wrong") : score.toFixed(2));
  };

  const card = (entry, facts, texts, doc) => {
    const at = doc % index.part, word = (number) => texts.words[number];
    const box = make("article", "card"), id = word(texts.id[at]);
    if (texts.image[at]) {
      const [folder, key] = texts.image[at];
      const image = make("img"), inline = document.getElementById("image-" + folder + "-" + key);
      image.loading = "lazy";
      image.alt = "Image of question " + id;
      image.onload = () => { if (image.naturalWidth < 200) image.classList.add("small"); };
      image.src = inline ? inline.textContent : index.media[folder] + "/" + encodeURIComponent(key) + ".webp";
      const zoom = make("button", "zoom");
      zoom.type = "button";
      zoom.setAttribute("aria-label", "Enlarge the image of question " + id);
      zoom.addEventListener("click", () => enlarge(image));
      zoom.append(image);
      box.append(zoom);
    }
    const body = make("div", "body"), type = entry.types[facts.type[doc]];
    body.append(make("p", "meta", "#" + id + (type ? " · " + type : "")));
    body.append(make("p", "q", word(texts.question[at]) || "(no question logged)"));
    const target = make("p", "t", "Target ");
    target.append(make("b", "", word(texts.target[at])));
    const list = make("ul");
    entry.runs.forEach((run, i) => {
      const row = make("li"), name = make("span", "run");
      name.append(make("i", "dot " + (index.colors[run] || "cx")), plain(run));
      row.append(name);
      if (texts.answer[i][at] < 0) row.append(make("span", "s", "not logged"));
      else {
        const right = facts.right[i][doc], sure = facts.sure[i][doc];
        const said = verdict(texts, i, at, right) + (sure < 0 || entry.exact ? "" : " \u00b7 " + percent(sure / 10) + " sure");
        row.append(make("span", "s" + (right === "-" ? "" : right === "1" ? " right" : " wrong"), said));
        row.append(make("span", "a", word(texts.answer[i][at]) || "(empty answer)"));
        if (entry.exact && sure >= 0) row.append(make("span", "w", "probability of these very words: " + percent(sure / 10)));
      }
      list.append(row);
    });
    body.append(target, list);
    box.append(body);
    return box;
  };

  // Who is right: the answers of a question as a text of 1, 0 and -, one letter a run.
  const wishes = (entry) => {
    const all = (letter) => letter.repeat(entry.runs.length);
    const but = (i, letter, rest) => rest.repeat(i) + letter + rest.repeat(entry.runs.length - i - 1);
    const list = [["", "everything", () => true]];
    if (entry.runs.length > 1) list.push(["differ", "runs disagree", (said) => said.includes("1") && said.includes("0")]);
    list.push(["right", entry.runs.length > 1 ? "all right" : "right", (said) => said === all("1")]);
    list.push(["wrong", entry.runs.length > 1 ? "all wrong" : "wrong", (said) => said === all("0")]);
    if (entry.runs.length > 1) entry.runs.forEach((run, i) => {
      list.push(["only-" + i, "only " + run + " right", (said) => said === but(i, "1", "0")]);
      list.push(["not-" + i, "only " + run + " wrong", (said) => said === but(i, "0", "1")]);
    });
    return list;
  };
  const ORDERS = [["", "as asked"], ["sure", "surest first"], ["unsure", "least sure first"], ["gap", "confidence differs most"]];

  const fill = (select, pairs) => {
    const old = select.value;
    select.replaceChildren(...pairs.map(([value, label]) => { const option = make("option", "", label); option.value = value; return option; }));
    select.value = pairs.some(([value]) => value === old) ? old : pairs[0][0];
  };

  // Numbers of the questions whose texts hold the words: each different text is looked at once.
  const holding = async (entry, text, mine) => {
    const hits = new Uint8Array(entry.n), total = parts(entry);
    readAhead(entry);
    for (let number = 0; number < total; number += 1) {
      const texts = await part(entry, number);
      if (mine !== turn) return hits;
      if (!texts.lower) {
        texts.lower = texts.words.map((word) => word.toLowerCase());
        if (number % 10 === 9) found.textContent = "Reading " + (number + 1) + " of " + total + " parts …";
      }
      const has = texts.lower.map((word) => word.includes(text));
      for (const column of [texts.id, texts.question, texts.target, ...texts.answer]) {
        column.forEach((word, at) => { if (has[word]) hits[number * index.part + at] = 1; });
      }
    }
    return hits;
  };

  const order = (facts, docs, wish) => {
    if (!wish) return docs;
    const key = new Float64Array(facts.type.length);
    for (const doc of docs) {
      const known = facts.sure.map((run) => run[doc]).filter((sure) => sure >= 0);
      const mean = known.reduce((sum, sure) => sum + sure, 0) / known.length;
      key[doc] = !known.length ? -Infinity : wish === "gap" ? Math.max(...known) - Math.min(...known) : wish === "sure" ? mean : -mean;
    }
    return docs.sort((a, b) => key[b] - key[a] || a - b);
  };

  const draw = async () => {
    const mine = turn, entry = task, last = Math.max(1, Math.ceil(shown.length / PAGE));
    page = Math.min(Math.max(page, 0), last - 1);
    const docs = shown.slice(page * PAGE, (page + 1) * PAGE);
    const facts = await summary(entry);
    const texts = await Promise.all(docs.map((doc) => part(entry, Math.floor(doc / index.part))));
    if (mine !== turn) return;
    cards.replaceChildren(...docs.map((doc, i) => card(entry, facts, texts[i], doc)));
    place.value = String(page + 1);
    place.max = String(last);
    pages.textContent = last.toLocaleString("en");
    previous.disabled = page === 0;
    next.disabled = page === last - 1;
  };

  const filter = async () => {
    const mine = (turn += 1), entry = task;
    const text = form.text.value.trim().toLowerCase(), type = form.type.value;
    try {
      const facts = await summary(entry);
      const hits = text ? await holding(entry, text, mine) : null;
      if (mine !== turn) return;
      const test = (wishes(entry).find(([key]) => key === form.who.value) || wishes(entry)[0])[2];
      const known = new Map(), docs = [];
      for (let doc = 0; doc < entry.n; doc += 1) {
        if (hits && !hits[doc]) continue;
        if (type !== "" && facts.type[doc] !== Number(type)) continue;
        let said = "";
        for (const run of facts.right) said += run[doc];
        if (!known.has(said)) known.set(said, test(said));
        if (known.get(said)) docs.push(doc);
      }
      shown = order(facts, docs, form.order.value);
      page = 0;
      await draw();
      if (mine === turn) found.textContent = shown.length.toLocaleString("en") + " of " + entry.n.toLocaleString("en") + (entry.asked > entry.n ? " (the first of " + entry.asked.toLocaleString("en") + ")" : "") + " questions";
    } catch (error) {
      found.textContent = "Cannot read " + error.message + ": keep report_data beside this page.";
    }
  };

  const choose = () => {
    task = index.tasks.find((entry) => String(entry.id) === form.task.value) || index.tasks[0];
    fill(form.who, wishes(task));
    fill(form.type, [["", "all"], ...task.types.map((name, number) => [String(number), name])]);
    form.type.disabled = !task.types.length;
    filter();
  };
  const turnTo = (number) => { page = number; draw().catch(() => {}); };

  fill(form.task, index.tasks.map((entry) => [String(entry.id), entry.name]));
  fill(form.order, ORDERS);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.task.addEventListener("change", choose);
  for (const field of [form.who, form.type, form.order]) field.addEventListener("change", filter);
  let wait = 0;
  form.text.addEventListener("input", () => { clearTimeout(wait); wait = setTimeout(filter, 80); });
  // Texts of a large log are read ahead when a search is near, so that the first answer does not wait for them: beside
  // the page when the filters come into view, over a network when the search field is entered.
  form.text.addEventListener("focus", () => readAhead(task));
  if (location.protocol === "file:") new IntersectionObserver((seen) => { if (seen.some((one) => one.isIntersecting)) readAhead(task); }).observe(form);
  previous.addEventListener("click", () => turnTo(page - 1));
  next.addEventListener("click", () => turnTo(page + 1));
  place.addEventListener("change", () => turnTo(Number(place.value) - 1));
  choose();
})();
