// Draws every chart of the page.
(() => {
  const places = [...document.querySelectorAll(".chart")];
  const all = places.map((place) => vegaEmbed(place, ...drawn(place)).then(() => readable(place)));
  Promise.all(all).then(() => { document.documentElement.dataset.drawn = places.length; });
})();
