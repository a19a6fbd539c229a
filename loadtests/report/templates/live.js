// Asks for the newest rows every second, and draws each chart for whose column there is a value.
(() => {
  const EVERY_MS = 1000, MOST_ROWS = 600;
  const said = document.getElementById("said");
  const places = [...document.querySelectorAll(".chart")];
  const views = new Map();
  let rows = [];

  const show = async (place) => {
    if (views.has(place)) return views.get(place).data("rows", rows).runAsync();
    place.hidden = false;
    const [specification, options] = drawn(place);
    views.set(place, (await vegaEmbed(place, { ...specification, datasets: { rows } }, options)).view);
  };
  const showAll = async () => {
    for (const place of places.filter((each) => rows.some((row) => each.dataset.column in row))) {
      await show(place);
    }
    document.documentElement.dataset.rows = rows.length;
  };
  const ask = async () => {
    try {
      const { rows: news, ended } = await (await fetch(`server/rows?since=${rows.at(-1)?.t ?? -1}`)).json();
      rows = [...rows, ...news].slice(-MOST_ROWS);
      if (news.length) await showAll();
      if (ended) said.textContent = `There is nothing new: ${ended}.`;
      else if (rows.length) said.textContent = "A sample a second, of ten minutes at most.";
      if (ended) return;
    } catch {
      said.textContent = "Locust does not answer.";
    }
    setTimeout(ask, EVERY_MS);
  };
  ask();
})();
