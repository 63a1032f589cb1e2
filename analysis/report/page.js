"use strict";
(() => {
  // Marks of a chart carry their text for screen readers; a pointer gets the same text.
  const tip = document.getElementById("tip");
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

  const make = (tag, name, text) => {
    const node = document.createElement(tag);
    if (name) node.className = name;
    if (text !== undefined) node.textContent = text;
    return node;
  };

  // Panels of a choice (task, question type, ...): one is shown at a time. Without scripts all are.
  const FEW = 6, SHORT = 90;
  const picks = [...document.querySelectorAll("[data-pick]")].map((box, number) => {
    const panels = [...box.children].filter((child) => child.hasAttribute("data-label"));
    const labels = panels.map((panel) => panel.dataset.label);
    const pick = { box, panels, labels, name: box.dataset.pick, section: box.closest("section"), shown: 0, mark: () => {} };
    if (labels.length < 2) return pick;
    const asButtons = labels.length <= FEW && labels.join("").length <= SHORT;
    box.classList.add("picked");
    const control = make(asButtons ? "fieldset" : "label", asButtons ? "pick buttons" : "pick");
    control.append(make(asButtons ? "legend" : "span", "", pick.name));
    if (asButtons) {
      const inputs = labels.map((label, place) => {
        const input = make("input"), line = make("label");
        Object.assign(input, { type: "radio", name: "pick-" + number, value: String(place), checked: place === 0 });
        line.append(input, make("span", "", label));
        control.append(line);
        return input;
      });
      pick.mark = () => { inputs[pick.shown].checked = true; };
    } else {
      const select = make("select");
      labels.forEach((label, place) => select.append(new Option(label, String(place))));
      control.append(select);
      pick.mark = () => { select.value = String(pick.shown); };
    }
    control.addEventListener("change", (event) => choose(pick, Number(event.target.value)));
    box.prepend(control);
    return pick;
  });
  const show = (pick, place) => {
    pick.shown = place;
    pick.panels.forEach((panel, other) => { panel.hidden = other !== place; });
    pick.mark();
  };
  // The same choice inside another panel of the section follows: a token type stays when the task changes.
  const choose = (pick, place) => {
    for (const other of picks) {
      const same = other.section === pick.section && other.name === pick.name ? other.labels.indexOf(pick.labels[place]) : -1;
      if (same >= 0) show(other, same);
    }
  };
  for (const pick of picks) show(pick, 0);

  // What is wider than the screen says so, and fades at its end until it has been moved there.
  const wide = new Map();
  const look = (box) => {
    const over = box.scrollWidth - box.clientWidth;
    box.classList.toggle("more", over > 4 && box.scrollLeft < over - 4);
    wide.get(box).hidden = over <= 4;
  };
  const watch = new ResizeObserver((seen) => seen.forEach((one) => look(one.target)));
  for (const box of document.querySelectorAll(".scroll, .canvas")) {
    const hint = make("p", "hint", "wider than the screen: move it sideways \u2192");
    hint.hidden = true;
    box.before(hint);
    wide.set(box, hint);
    box.addEventListener("scroll", () => look(box), { passive: true });
    watch.observe(box);
  }

  // Tables sort by a click on a column's head; a note row stays under its row.
  const value = (row, column, numeric) => {
    const text = row.cells[column] ? row.cells[column].textContent.trim() : "";
    if (!numeric) return text;
    const found = text.replaceAll("\u2212", "-").replaceAll(",", "").match(/[-+]?\d+(\.\d+)?(e[-+]?\d+)?/);
    return found ? Number(found[0]) : NaN;
  };
  const sortBy = (table, head) => {
    const column = head.cellIndex, numeric = head.classList.contains("num");
    const down = head.getAttribute("aria-sort") !== "descending";
    for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const body = table.tBodies[0], blocks = [];
    for (const row of body.rows) row.classList.contains("noted") ? blocks[blocks.length - 1].push(row) : blocks.push([row]);
    const compare = ([a], [b]) => {
      const x = value(a, column, numeric), y = value(b, column, numeric);
      if (numeric && (isNaN(x) || isNaN(y))) return isNaN(x) - isNaN(y); // rows without a number stay last
      const order = numeric ? x - y : x.localeCompare(y, undefined, { numeric: true });
      return down ? -order : order;
    };
    body.append(...blocks.sort(compare).flat());
  };
  for (const table of document.querySelectorAll("table.sortable")) {
    for (const head of table.tHead.rows[0].cells) {
      const button = make("button", "sort");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => sortBy(table, head));
    }
    if (!table.classList.contains("filterable")) continue;
    const line = make("label", "pick"), input = make("input");
    Object.assign(input, { type: "search", placeholder: "a run, a task, a metric", autocomplete: "off" });
    line.append(make("span", "", "Rows with"), input);
    input.addEventListener("input", () => {
      const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
      for (const row of table.tBodies[0].rows) {
        const text = row.textContent.toLowerCase();
        row.hidden = !words.every((word) => text.includes(word));
      }
    });
    table.closest(".scroll").before(line);
  }
})();
