"use strict";
(function () {
  const place = document.getElementById("curve");
  if (!place || typeof Plotly === "undefined") return;
  const figure = JSON.parse(document.getElementById("figure").textContent);
  const tone = function (name) {
    return getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim();
  };
  const narrow = window.matchMedia("(max-width: 40rem)");
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const dressed = function () {
    const drawn = JSON.parse(JSON.stringify(figure));
    drawn.data.forEach(function (trace) {
      const colour = tone(trace.meta);
      if (trace.line) trace.line.color = colour;
      if (trace.fill) trace.fillcolor = colour;
      if (trace.marker) trace.marker.color = colour;
    });
    (drawn.layout.shapes || []).forEach(function (shape) {
      const colour = tone(shape.name);
      shape.line.color = colour;
      if (shape.type === "rect") shape.fillcolor = colour;
    });
    const layout = drawn.layout;
    layout.font = { color: tone("soft"), family: getComputedStyle(document.body).fontFamily, size: 12 };
    layout.hoverlabel = { bgcolor: tone("sheet"), bordercolor: tone("rule"), font: { color: tone("ink"), size: 12 }, align: "left" };
    layout.modebar = { bgcolor: "rgba(0,0,0,0)", color: tone("soft"), activecolor: tone("ink") };
    ["xaxis", "yaxis"].forEach(function (axis) {
      layout[axis].gridcolor = tone("rule");
      layout[axis].linecolor = tone("rule");
      layout[axis].zerolinecolor = tone("rule");
    });
    layout.margin = narrow.matches ? { l: 44, r: 8, t: 28, b: 40 } : { l: 60, r: 16, t: 28, b: 44 };
    return drawn;
  };
  const draw = function () {
    const drawn = dressed();
    Plotly.react(place, drawn.data, drawn.layout, {
      displayModeBar: narrow.matches ? false : "hover", displaylogo: false, responsive: true, showSendToCloud: false,
      modeBarButtonsToRemove: ["lasso2d", "select2d", "autoScale2d"]
    });
  };
  draw();
  dark.addEventListener("change", draw);
  narrow.addEventListener("change", draw);
})();
