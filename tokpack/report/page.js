"use strict";
// Column headers become buttons that sort their table; without scripts the tables are read as they are.
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  const headers = [...table.tHead.rows[0].cells];
  if (body.rows.length < 2) continue;
  const key = (row, column) => {
    const cell = row.cells[column];
    return cell.dataset.value === undefined ? cell.textContent : Number(cell.dataset.value);
  };
  headers.forEach((header, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = header.textContent;
    header.replaceChildren(button);
    button.addEventListener("click", () => {
      const numbers = header.classList.contains("number");
      const now = header.getAttribute("aria-sort");
      const first = numbers ? "descending" : "ascending";
      const order = now === first ? (numbers ? "ascending" : "descending") : first;
      for (const other of headers) other.removeAttribute("aria-sort");
      header.setAttribute("aria-sort", order);
      const sign = order === "ascending" ? 1 : -1;
      const compare = (a, b) => (numbers ? a - b : a.localeCompare(b));
      body.append(...[...body.rows].sort((a, b) => sign * compare(key(a, column), key(b, column))));
    });
  });
}
// What if: the bill is linear in price and epochs; each length of a row was costed by tokpack.
const whatIf = document.getElementById("what-if");
if (whatIf) {
  const input = (name) => whatIf.querySelector(`[name="${name}"]`);
  const shown = (name, text) => (whatIf.querySelector(`[data-shown="${name}"]`).textContent = text);
  const dollars = (value) =>
    "$" + (value >= 100 ? Math.round(value).toLocaleString("en") : value >= 0.1 ? value.toFixed(2) : value.toPrecision(2));
  const range = (words) => (words[0] === words[1] ? words[0] : words.join(" to "));
  const clock = (hours) => {  // as the bill has it: in the unit of the upper end
    const [unit, factor] = hours[1] >= 1 ? ["h", 1] : hours[1] * 60 >= 1 ? ["min", 60] : ["s", 3600];
    const top = hours[1] * factor, digits = top >= 10 ? 0 : top >= 0.95 ? 1 : 2;
    const places = { minimumFractionDigits: digits, maximumFractionDigits: digits };
    return `${range(hours.map((end) => (end * factor).toLocaleString("en", places)))} ${unit}`;
  };
  const recompute = () => {
    const length = input("length").selectedOptions[0].dataset;
    const number = (name) => Math.max(0, Number(input(name).value) || 0);
    const more = number("epochs") / Number(whatIf.dataset.epochs);
    const given = number("utilization");
    const hours = (given ? [length.ideal / (given / 100), length.ideal / (given / 100)] : [length.low, length.high]).map(
      (value, end) => Number(value) * more + Number(end ? whatIf.dataset.startHigh : whatIf.dataset.startLow),
    );
    const price = number("price");
    const steps = Math.ceil(Math.ceil(Number(length.rows) / Math.max(1, number("rows"))) * number("epochs"));
    shown("money", range(hours.map((end) => dollars(end * price))));
    shown("hours", clock(hours.map((end) => end / whatIf.dataset.gpus)));
    shown("steps", steps.toLocaleString("en"));
    shown("fits", length.fits === "yes" ? "a row fits" : "a row does not fit in memory");
  };
  whatIf.addEventListener("input", recompute);
  whatIf.hidden = false;
  recompute();
}
