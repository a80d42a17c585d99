// Tables inside <div class="choose"> are sorted by a click on a heading, and long ones filtered by the fields above them.
// What is chosen of the first stands in the address, so that it can be sent on: models.html?sort=MACs+(G)&licence=mit

"use strict";

const MOST_CHOICES = 16; // of a field, before it is one to type into
const LEAST_ROWS = 20; // of a table that gets fields
const HIGHER_IS_BETTER = /%|AP|mIoU|top-1/;

// The number that a cell begins with; NaN where it has none.
const numberIn = (cell) => parseFloat(cell.textContent);
const textIn = (cell) => cell.textContent.trim();

function columnsOf(table) {
  return [...table.tHead.rows[0].cells].map((heading, index) => {
    const cells = [...table.tBodies[0].rows].map((row) => row.cells[index]);
    const isNumber = heading.style.textAlign === "right";
    const texts = [...new Set(cells.map(textIn))].sort();
    return { heading, index, isNumber, texts, name: textIn(heading), atLeast: HIGHER_IS_BETTER.test(textIn(heading)) };
  });
}

function fieldFor(column) {
  const label = document.createElement("label");
  const isSelect = !column.isNumber && column.texts.length <= MOST_CHOICES;
  const field = document.createElement(isSelect ? "select" : "input");
  if (isSelect) {
    field.add(new Option("any", ""));
    column.texts.forEach((text) => field.add(new Option(text, text)));
  } else {
    field.type = column.isNumber ? "number" : "search";
    field.step = "any";
    field.placeholder = column.isNumber ? (column.atLeast ? "at least" : "at most") : "contains";
  }
  field.name = column.name;
  label.append(column.name, field);
  return { label, field };
}

function fits(cell, column, wanted) {
  if (wanted === "") return true;
  if (!column.isNumber) {
    const text = textIn(cell);
    return column.texts.length <= MOST_CHOICES ? text === wanted : text.toLowerCase().includes(wanted.toLowerCase());
  }
  const number = numberIn(cell);
  return column.atLeast ? number >= Number(wanted) : number <= Number(wanted);
}

// Rows without a number stay at the end, whichever the order.
function compare(one, other, column, descending) {
  const sign = descending ? -1 : 1;
  const [a, b] = [one.cells[column.index], other.cells[column.index]];
  if (!column.isNumber) return sign * textIn(a).localeCompare(textIn(b));
  const [x, y] = [numberIn(a), numberIn(b)];
  if (Number.isNaN(x) || Number.isNaN(y)) return Number.isNaN(x) - Number.isNaN(y);
  return sign * (x - y);
}

function makeChoosable(table, number) {
  const body = table.tBodies[0];
  const rows = [...body.rows];
  const columns = columnsOf(table);
  const form = document.createElement("form");
  const count = document.createElement("output");
  const fields = columns.map((column) => {
    const { label, field } = fieldFor(column);
    form.append(label);
    return field;
  });
  const clear = document.createElement("button");
  clear.type = "reset";
  clear.textContent = "Clear";
  form.className = "choose-fields";
  form.append(clear, count);
  let sorted = null; // the column, and whether the greatest is first

  function show() {
    const left = rows.filter((row) => columns.every((column, i) => fits(row.cells[i], column, fields[i].value)));
    if (sorted) left.sort((one, other) => compare(one, other, sorted.column, sorted.descending));
    body.replaceChildren(...left);
    count.textContent = `${left.length} of ${rows.length}`;
    for (const { heading } of columns) heading.removeAttribute("aria-sort");
    if (sorted) sorted.column.heading.setAttribute("aria-sort", sorted.descending ? "descending" : "ascending");
  }

  function remember() {
    if (number > 0) return;
    const chosen = new URLSearchParams();
    fields.filter((field) => field.value !== "").forEach((field) => chosen.set(field.name, field.value));
    if (sorted) chosen.set(sorted.descending ? "sort_down" : "sort", sorted.column.name);
    const query = chosen.toString();
    history.replaceState(null, "", location.pathname + (query && `?${query}`) + location.hash);
  }

  function sortBy(column) {
    const again = sorted && sorted.column === column;
    sorted = { column, descending: again ? !sorted.descending : column.isNumber && column.atLeast };
    show();
    remember();
  }

  for (const column of columns) {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...column.heading.childNodes);
    button.addEventListener("click", () => sortBy(column));
    column.heading.append(button);
  }
  form.addEventListener("input", () => { show(); remember(); });
  form.addEventListener("reset", () => { sorted = null; setTimeout(() => { show(); remember(); }); });
  form.addEventListener("submit", (event) => event.preventDefault());

  const given = new URLSearchParams(number > 0 ? "" : location.search);
  fields.forEach((field) => { field.value = given.get(field.name) ?? ""; });
  const named = columns.find((column) => column.name === (given.get("sort") ?? given.get("sort_down")));
  if (named) sorted = { column: named, descending: given.has("sort_down") };
  if (rows.length >= LEAST_ROWS) (table.closest(".md-typeset__scrollwrap") ?? table).before(form);
  show();
}

document.querySelectorAll(".choose table").forEach(makeChoosable);
