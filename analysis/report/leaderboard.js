"use strict";
(() => {
  const form = document.getElementById("narrow"), columns = document.getElementById("columns"), found = document.getElementById("shown");
  const boxes = [...columns.querySelectorAll("input")];

  const narrow = () => {
    const words = form.text.value.toLowerCase().split(/\s+/).filter(Boolean), architecture = form.architecture.value;
    const hidden = new Set(boxes.filter((box) => !box.checked).map((box) => box.value));
    const all = new Set(), kept = new Set();
    for (const row of document.querySelectorAll("table.board tbody tr")) {
      const text = row.dataset.text.toLowerCase();
      row.hidden = (architecture !== "" && row.dataset.architecture !== architecture) || !words.every((word) => text.includes(word));
      all.add(text);
      if (!row.hidden) kept.add(text);
    }
    for (const cell of document.querySelectorAll("table.board [data-column]")) cell.hidden = hidden.has(cell.dataset.column);
    found.textContent = kept.size + " of " + all.size + " rows" + (hidden.size ? ", " + (boxes.length - hidden.size) + " of " + boxes.length + " benchmarks" : "") + " shown. Ranks, means and groups stay those of all of them.";
  };

  const check = (checked) => () => {
    for (const box of boxes) box.checked = checked;
    narrow();
  };

  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("input", narrow);
  columns.addEventListener("change", narrow);
  document.getElementById("all-columns").addEventListener("click", check(true));
  document.getElementById("no-columns").addEventListener("click", check(false));
  narrow();
})();
