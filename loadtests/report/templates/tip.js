// What is said where somebody points, and how a chart is drawn: as wide as its place.
"use strict";
const say = (handler, event, item) => {
  const tip = document.querySelector(".tip");
  // What a mark says; where the nearest one answers, Vega hands over what stands for it, with the mark's row inside.
  const text = event.type === "pointerout" ? "" : item?.datum?.tip ?? item?.datum?.datum?.tip;
  tip.hidden = !text;
  if (!text) return;
  tip.textContent = text;
  const room = document.documentElement.clientWidth - tip.offsetWidth - 8;
  tip.style.left = Math.max(8, Math.min(event.clientX + 14, room)) + window.scrollX + "px";
  tip.style.top = event.clientY + 14 + window.scrollY + "px";
};
// What vegaEmbed() is to draw in a place, and how.
const drawn = (place) => [
  { ...JSON.parse(place.querySelector("script").textContent), description: place.dataset.label },
  {
    renderer: "svg", actions: false, tooltip: say, defaultStyle: false,
    config: JSON.parse(document.querySelector("#config").textContent),
  },
];
