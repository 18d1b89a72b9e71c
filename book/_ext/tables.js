// Tables of the class `searchable` can be sorted by any column and searched. Without this script they are plain
// tables, and so they print. BUNDLE, which the build puts above this, is DataTables as an address.
const UNITS = { K: 1e3, M: 1e6, B: 1e9 };

import(BUNDLE).then(({ ITable }) => {
  for (const table of document.querySelectorAll("table.searchable")) {
    for (const cell of table.tBodies[0].querySelectorAll("td")) {
      const number = cell.textContent.trim().replace("−", "-").match(/^([+-]?\d+(?:\.\d+)?)(?: ([KMB])\b)?/);
      if (number) cell.dataset.order = number[1] * (UNITS[number[2]] ?? 1);
      // Columns of numbers stand at the right. A cell there without one must say so, or DataTables, which looks at
      // the first row only, takes all of the column for words.
      else if (getComputedStyle(cell).textAlign === "right") cell.dataset.order = "";
    }
    new ITable(table, { paging: false, info: false, order: [], autoWidth: false });
  }
});
