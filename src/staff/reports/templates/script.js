"use strict";
// Pages are whole without this: it switches between coresets and filters rows, where there are any.
(() => {
  const all = (selector) => [...document.querySelectorAll(selector)];
  const find = (id) => document.getElementById(id);
  const value = (id) => find(id)?.value ?? "";

  function filter() {
    if (!filters) return;
    const words = value("search").toLowerCase().split(/\s+/).filter(Boolean);
    const region = value("region"), fate = value("fate");
    const rows = all("#rows tbody tr");
    let shown = 0;
    for (const row of rows) {
      const text = row.textContent.toLowerCase();
      const chosen = row.querySelector(".fate:not([hidden])")?.matches(".budget, .top-up, .included");
      row.hidden = !(words.every((word) => text.includes(word))
        && (region === "" || row.dataset.region === region)
        && (fate === "" || (fate === "yes") === chosen));
      shown += !row.hidden;
    }
    find("found").textContent = `${shown} of ${rows.length} shown`;
  }

  function show(coreset) {
    for (const part of all("[data-coreset]")) part.hidden = part.dataset.coreset !== coreset;
    filter();
  }

  const filters = find("filters");
  if (filters) {
    filters.hidden = false;
    filters.addEventListener("input", filter);
    filters.addEventListener("submit", (event) => event.preventDefault());
  }
  const choice = find("coresets");
  if (choice) {
    choice.hidden = false;
    choice.addEventListener("change", (event) => show(event.target.value));
    show(choice.querySelector(":checked").value);
  } else {
    filter();
  }
  // Paper has no summary to click on.
  addEventListener("beforeprint", () => all("details").forEach((part) => { part.open = true; }));
})();
