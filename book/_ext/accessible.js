// What the theme leaves without a name or a role that readers of the page's structure need.
for (const summary of document.querySelectorAll("nav li > details > summary")) {
  const section = summary.closest("li").querySelector("a").textContent.trim();
  summary.setAttribute("aria-label", `Pages of ${section}`);
}
for (const entry of document.querySelectorAll(".citation-list > *")) entry.setAttribute("role", "listitem");
