// Polls for new rows every second, and draws each chart whose column has a value.
(() => {
  const EVERY_MS = 1000, MOST_ROWS = 600;
  const status = document.getElementById("said");
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
  const poll = async () => {
    try {
      const { rows: added, ended } = await (await fetch(`server/rows?since=${rows.at(-1)?.t ?? -1}`)).json();
      rows = [...rows, ...added].slice(-MOST_ROWS);
      if (added.length) await showAll();
      if (ended) status.textContent = `No more samples: ${ended}.`;
      else if (rows.length) status.textContent = "One sample a second; the last ten minutes.";
      if (ended) return;
    } catch {
      status.textContent = "Locust does not answer.";
    }
    setTimeout(poll, EVERY_MS);
  };
  poll();
})();
