// Reads the values of a chart without a mouse: a tap or the arrow keys choose a mark, and its tooltip stays.
const readable = (place) => {
  const read = document.querySelector("#read");
  let at = -1, chosen = null;
  // The marks from left to right, or from the top if each has a row of its own. Vega keeps the row of a mark in its element.
  const marks = () => {
    const found = [...place.querySelectorAll("svg path, svg line")].filter((each) => each.__data__?.datum?.tip);
    const seen = new Map(found.map((each) => [each.__data__.datum.tip, each]));
    const places = [...seen.values()].map((mark) => [mark, middle(mark)]);
    const isColumn = new Set(places.map(([, [, y]]) => Math.round(y))).size === places.length;
    return places.sort(([, a], [, b]) => (isColumn ? a[1] - b[1] : a[0] - b[0])).map(([mark]) => mark);
  };
  const middle = (mark) => {
    const box = mark.getBoundingClientRect();
    return [box.left + box.width / 2, box.top + box.height / 2];
  };
  const leave = () => {
    chosen?.classList.remove("chosen");
    chosen = null;
    place.dataset.read = "";
    document.querySelector(".tip").hidden = true;
  };
  const choose = (all, number) => {
    leave();
    at = Math.max(0, Math.min(number, all.length - 1));
    chosen = all[at];
    chosen.classList.add("chosen");
    const [clientX, clientY] = middle(chosen), text = chosen.__data__.datum.tip;
    showTip(null, { type: "read", clientX, clientY }, { datum: { tip: text } });
    read.textContent = place.dataset.read = text;
  };
  if (!marks().length) return;
  place.tabIndex = 0;
  place.setAttribute("aria-describedby", "how");
  place.addEventListener("keydown", (event) => {
    const all = marks(), step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    const to = { Home: 0, End: all.length - 1 }[event.key] ?? (step && (chosen ? at + step : step > 0 ? 0 : all.length - 1));
    if (event.key === "Escape") leave();
    if (to === undefined) return;
    event.preventDefault();
    choose(all, to);
  });
  place.addEventListener("click", (event) => {
    const all = marks(), far = all.map(middle).map(([x, y]) => Math.hypot(x - event.clientX, (y - event.clientY) / 4));
    choose(all, far.indexOf(Math.min(...far)));
  });
  place.addEventListener("blur", leave);
};
