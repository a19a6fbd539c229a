// Shows the tooltip at the pointer, and has the options for drawing a chart as wide as its place.
"use strict";
const showTip = (handler, event, item) => {
  const tip = document.querySelector(".tip");
  // The tooltip of a mark. For the nearest mark Vega passes a substitute, which has the row of the mark inside.
  const text = event.type === "pointerout" ? "" : item?.datum?.tip ?? item?.datum?.datum?.tip;
  tip.hidden = !text;
  if (!text) return;
  tip.textContent = text;
  const room = document.documentElement.clientWidth - tip.offsetWidth - 8;
  tip.style.left = Math.max(8, Math.min(event.clientX + 14, room)) + window.scrollX + "px";
  tip.style.top = event.clientY + 14 + window.scrollY + "px";
};
// The specification and the options for vegaEmbed() in a place.
const drawn = (place) => [
  { ...JSON.parse(place.querySelector("script").textContent), description: place.dataset.label },
  {
    renderer: "svg", actions: false, tooltip: showTip, defaultStyle: false,
    config: JSON.parse(document.querySelector("#config").textContent),
  },
];
