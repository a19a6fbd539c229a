// Draws every chart of the page, and opens for paper what paper has room for.
(() => {
  addEventListener("beforeprint", () => document.querySelectorAll("details.print").forEach((each) => { each.open = true; }));
  const places = [...document.querySelectorAll(".chart")];
  const all = places.map((place) => vegaEmbed(place, ...drawn(place)).then(() => readable(place)));
  Promise.all(all).then(() => { document.documentElement.dataset.drawn = places.length; });
})();
