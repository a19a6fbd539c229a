// Draws every chart of the page, each as wide as its place, and says what is there where somebody points.
"use strict";
(() => {
  const tip = document.querySelector(".tip");
  // What a mark says; where the nearest one answers, Vega hands over what stands for it, with the mark's row inside.
  const said = (item) => item?.datum?.tip ?? item?.datum?.datum?.tip;
  const say = (handler, event, item) => {
    const text = event.type === "pointerout" ? "" : said(item);
    tip.hidden = !text;
    if (!text) return;
    tip.textContent = text;
    const room = document.documentElement.clientWidth - tip.offsetWidth - 8;
    tip.style.left = Math.max(8, Math.min(event.clientX + 14, room)) + window.scrollX + "px";
    tip.style.top = event.clientY + 14 + window.scrollY + "px";
  };
  const draw = (script) => {
    const place = script.parentElement;
    const options = { renderer: "svg", actions: false, tooltip: say, defaultStyle: false };
    return vegaEmbed(place, { ...JSON.parse(script.textContent), description: place.dataset.label }, options);
  };
  const charts = [...document.querySelectorAll(".chart > script")];
  Promise.all(charts.map(draw)).then(() => { document.documentElement.dataset.drawn = charts.length; });
})();
