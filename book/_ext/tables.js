// Tables of the class `searchable` can be sorted by any column and searched. Without this script they are plain
// tables, and so they print. BUNDLE, which the build puts above this, is DataTables as an address.
import(BUNDLE).then(({ ITable }) => {
  for (const table of document.querySelectorAll("table.searchable")) {
    for (const cell of table.tBodies[0].querySelectorAll("td")) {
      const number = cell.textContent.trim().replace("−", "-").match(/^[+-]?\d+(\.\d+)?/);
      if (number) cell.dataset.order = number[0];
    }
    new ITable(table, { paging: false, info: false, order: [], autoWidth: false });
  }
});
