// Draws the figures that pages carry as data, once the theme's colours are known.
for (const place of document.querySelectorAll(".interactive-plot")) {
  const figure = JSON.parse(place.dataset.figure);
  Plotly.newPlot(place, figure.data, figure.layout, { displaylogo: false, responsive: true });
}
