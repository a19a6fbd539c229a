// Draws every chart of the page, and opens the details with class "print" before printing.
(() => {
  addEventListener("beforeprint", () => document.querySelectorAll("details.print").forEach((each) => { each.open = true; }));
  const places = [...document.querySelectorAll(".chart")];
  const all = places.map((place) => vegaEmbed(place, ...drawn(place)).then(() => readable(place)));
  Promise.all(all).then(() => { document.documentElement.dataset.drawn = places.length; });
})();
