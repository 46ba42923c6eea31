// What pages do beyond reading: charts, keys, copying, light and dark. Every page says the same without it.
"use strict";
document.documentElement.classList.add("scripted");

// -- charts: the server sends labels, heights, texts and addresses; colours are those of the page

const token = (name) => {
  // light-dark() is resolved where it is used, so the colour is asked of an element that uses it.
  const probe = document.createElement("span");
  probe.style.color = `var(${name})`;
  document.body.append(probe);
  const colour = getComputedStyle(probe).color;
  probe.remove();
  return colour;
};

const dollars = (value) => {
  const size = Math.abs(value);
  const digits = size >= 100 || size === 0 ? 0 : size >= 1 ? 2 : 4;
  return "$" + value.toLocaleString("en-US", { minimumFractionDigits: 0, maximumFractionDigits: digits });
};

const shortened = (text, most) => (text.length > most ? text.slice(0, most - 1) + "…" : text);

const charts = {
  bars(data, look) {
    const series = data.series[0];
    return {
      grid: { left: 8, right: 90, top: 8, bottom: 8, containLabel: true },
      xAxis: { type: "value", axisLabel: { formatter: dollars, hideOverlap: true }, splitLine: look.split },
      yAxis: { type: "category", inverse: true, data: data.labels, axisLabel: { formatter: (name) => shortened(name, look.narrow ? 16 : 36) } },
      series: [{ type: "bar", name: series.name, data: points(series, look.colours[0]), label: { show: true, position: "right", color: look.text, formatter: (bar) => bar.data.text } }],
    };
  },
  stacked(data, look) {
    const series = data.series.map((each, place) => ({
      type: "bar", stack: "all", name: each.name, data: points(each, look.colours[place % look.colours.length]),
      itemStyle: { color: look.colours[place % look.colours.length] },
    }));
    if (data.marks.length) {
      series[0].markLine = {
        symbol: "none", silent: true, lineStyle: { color: look.mark, type: "dashed" },
        label: { color: look.mark, formatter: (line) => shortened(line.data.text, 24), position: "insideEndTop" },
        data: data.marks.map((mark) => ({ xAxis: mark.label, text: mark.text })),
      };
    }
    return {
      legend: { type: "scroll", bottom: 0, textStyle: { color: look.text } },
      grid: { left: 8, right: 32, top: 16, bottom: 36, containLabel: true },
      xAxis: { type: "category", data: data.labels, axisLabel: { hideOverlap: true } },
      yAxis: { type: "value", axisLabel: { formatter: dollars }, splitLine: look.split },
      series,
    };
  },
  pareto(data, look) {
    const [bars, line] = data.series;
    return {
      grid: { left: 8, right: 8, top: 24, bottom: 8, containLabel: true },
      xAxis: { type: "category", data: data.labels, axisLabel: { rotate: 35, formatter: (name) => shortened(name, 14) } },
      yAxis: [
        { type: "value", axisLabel: { formatter: dollars }, splitLine: look.split },
        { type: "value", min: 0, max: 1, axisLabel: { formatter: (value) => Math.round(value * 100) + "%" }, splitLine: { show: false } },
      ],
      series: [
        { type: "bar", name: bars.name, data: points(bars, look.colours[0]) },
        { type: "line", name: line.name, yAxisIndex: 1, data: points(line, look.colours[2]), itemStyle: { color: look.colours[2] }, lineStyle: { color: look.colours[2] } },
      ],
    };
  },
  waterfall(data, look) {
    const series = data.series[0];
    const last = series.values.length - 1;
    const base = [], shown = [];
    let level = 0;
    series.values.forEach((value, place) => {
      const whole = place === 0 || place === last;
      const from = whole ? 0 : level;
      const to = whole ? value : level + value;
      base.push(Math.min(from, to));
      shown.push({
        value: Math.abs(to - from), text: series.texts[place], href: series.hrefs[place],
        itemStyle: { color: whole ? look.colours[7] : value > 0 ? look.up : look.down, decal: value < 0 && !whole ? look.decal : undefined },
      });
      level = to;
    });
    const least = Math.min(...base.slice(1, last), series.values[0], series.values[last]);
    const floor = least > 0 ? least * 0.9 : 0;
    return {
      grid: { left: 8, right: 8, top: 24, bottom: 8, containLabel: true },
      xAxis: { type: "category", data: data.labels, axisLabel: { interval: 0, rotate: look.narrow ? 60 : 30, formatter: (name) => shortened(name, 22) } },
      yAxis: { type: "value", min: floor, axisLabel: { formatter: dollars }, splitLine: look.split },
      series: [
        { type: "bar", stack: "all", silent: true, itemStyle: { color: "transparent" }, data: base },
        { type: "bar", stack: "all", name: series.name, data: shown, label: { show: !look.narrow, position: "top", color: look.text, formatter: (bar) => bar.data.text } },
      ],
    };
  },
  treemap(data, look) {
    const root = [];
    for (const leaf of data.series[0].leaves) {
      let level = root;
      let colour = "";
      leaf.path.forEach((name, depth) => {
        let node = level.find((each) => each.name === name);
        if (!node) {
          colour = depth === 0 ? look.colours[root.length % look.colours.length] : colour;
          node = { name, value: 0, children: [], itemStyle: { color: colour } };
          level.push(node);
        }
        colour = node.itemStyle.color;
        node.value += leaf.value;
        if (depth === leaf.path.length - 1) Object.assign(node, { text: leaf.text, href: leaf.href, children: undefined });
        level = node.children || [];
      });
    }
    const border = (width, gap) => ({ itemStyle: { borderColor: look.raised, borderWidth: width, gapWidth: gap } });
    return {
      series: [{
        type: "treemap", data: root, animation: false, roam: false, nodeClick: false, breadcrumb: { show: false }, top: 0, bottom: 0, left: 0, right: 0,
        upperLabel: { show: true, height: 20, color: look.text, overflow: "truncate" },
        label: { formatter: (node) => node.name + "\n" + (node.data.text || ""), color: "#fff", lineHeight: 16, overflow: "truncate", textShadowColor: "#000", textShadowBlur: 4 },
        levels: [{ ...border(0, 4), upperLabel: { show: false } }, border(3, 2), border(2, 2), border(1, 1)],
      }],
    };
  },
  line(data, look) {
    const series = data.series[0];
    return {
      grid: { left: 8, right: 48, top: 24, bottom: 8, containLabel: true },
      xAxis: { type: "category", data: data.labels, axisLabel: { hideOverlap: true } },
      yAxis: { type: "value", min: 0, axisLabel: { formatter: (value) => (value * 100).toFixed(1) + "%" }, splitLine: look.split },
      series: [{
        type: "line", name: series.name, data: points(series, look.colours[1]), lineStyle: { color: look.colours[1] }, symbolSize: 7,
        markLine: data.limit.at === undefined ? undefined : {
          symbol: "none", silent: true, lineStyle: { color: look.up, type: "dashed" },
          label: { color: look.up, formatter: data.limit.text }, data: [{ yAxis: data.limit.at }],
        },
      }],
    };
  },
};

const points = (series, colour) =>
  series.values.map((value, place) => ({ value, text: series.texts[place], href: series.hrefs[place], itemStyle: { color: colour } }));

const look = (width) => ({
  text: token("--text"), soft: token("--soft"), ground: token("--ground"), raised: token("--raised"), mark: token("--mark"),
  up: token("--up"), down: token("--down"), narrow: width < 480,
  split: { lineStyle: { color: token("--line") } },
  colours: [1, 2, 3, 4, 5, 6, 7, 8].map((number) => token(`--c${number}`)),
  decal: { symbol: "rect", dashArrayX: [1, 0], dashArrayY: [3, 5], rotation: -0.8, color: "rgba(255,255,255,.45)" },
});

const draw = (element) => {
  const data = JSON.parse(element.dataset.chart);
  const own = look(element.clientWidth);
  const old = echarts.getInstanceByDom(element);
  if (old) old.dispose();
  const chart = echarts.init(element, null, { renderer: "canvas" });
  const axis = { axisLine: { lineStyle: { color: own.soft } }, axisLabel: { color: own.soft } };
  const option = charts[data.kind](data, own);
  for (const name of ["xAxis", "yAxis"]) {
    for (const each of [option[name] || []].flat()) {
      each.axisLine = { ...axis.axisLine, ...each.axisLine };
      each.axisLabel = { ...axis.axisLabel, ...each.axisLabel };
    }
  }
  chart.setOption({
    animation: false,
    textStyle: { fontFamily: "system-ui, sans-serif" },
    // Text drawn on the canvas: a tooltip of HTML would be markup made of names that strangers chose.
    tooltip: {
      renderMode: "richText", confine: true, backgroundColor: own.raised, borderColor: own.soft, textStyle: { color: own.text },
      formatter: (item) => `${item.seriesName && item.seriesName !== "cost" ? item.seriesName + "\n" : ""}${item.name}  ${(item.data && item.data.text) || ""}`,
    },
    ...option,
  });
  chart.on("click", (item) => {
    if (item.data && item.data.href) location.href = item.data.href;
  });
  element.dataset.drawn = "yes";
};

const drawAll = () => {
  const found = document.querySelectorAll(".chart[data-chart]");
  if (!found.length) return;
  if (window.echarts) {
    found.forEach(draw);
  } else if (!document.getElementById("charts")) {
    // A megabyte that only pages with a chart need, and none needs before it is read.
    const script = document.createElement("script");
    script.id = "charts";
    script.src = document.documentElement.dataset.charts;
    script.addEventListener("load", drawAll);
    document.head.append(script);
  }
};
let resizing = 0;
addEventListener("resize", () => {
  clearTimeout(resizing);
  resizing = setTimeout(drawAll, 120);
});
for (const query of ["(prefers-color-scheme: dark)", "print"]) matchMedia(query).addEventListener("change", drawAll);
addEventListener("load", drawAll);
document.addEventListener("htmx:after:swap", drawAll);

// -- light and dark

document.addEventListener("click", (event) => {
  const toggle = event.target.closest(".theme-toggle");
  if (toggle) {
    const dark = getComputedStyle(document.documentElement).colorScheme === "dark" ||
      (!document.documentElement.dataset.theme && matchMedia("(prefers-color-scheme: dark)").matches);
    const theme = dark ? "light" : "dark";
    document.documentElement.dataset.theme = theme;
    document.cookie = `costbearer_theme=${theme}; path=/; max-age=31536000; samesite=lax`;
    drawAll();
  }
  const copy = event.target.closest("[data-copy]");
  if (copy) {
    const source = document.getElementById(copy.dataset.copy);
    navigator.clipboard.writeText(source.value ?? source.textContent).then(() => {
      const before = copy.textContent;
      copy.textContent = "Copied";
      setTimeout(() => { copy.textContent = before; }, 1500);
    });
  }
});

// -- keys

const places = { o: "/", e: "/explore", w: "/why", c: "/coverage", k: "/keys", f: "/findings", m: "/models", t: "/traces", u: "/unknown" };
let waiting = "";
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, select, textarea")) return;
  if (event.key === "/") {
    event.preventDefault();
    document.getElementById("find")?.focus();
  } else if (event.key === "?") {
    location.href = "/help";
  } else if (waiting === "g" && places[event.key]) {
    location.href = places[event.key];
  }
  waiting = event.key;
});

// -- a file that is dropped

document.querySelectorAll(".drop").forEach((area) => {
  const input = area.querySelector("input[type=file]");
  area.addEventListener("dragover", (event) => { event.preventDefault(); area.classList.add("over"); });
  area.addEventListener("dragleave", () => area.classList.remove("over"));
  area.addEventListener("drop", (event) => {
    event.preventDefault();
    area.classList.remove("over");
    if (event.dataTransfer.files.length) input.files = event.dataTransfer.files;
  });
});

// -- on a narrow screen the navigation is folded

if (matchMedia("(max-width: 46rem)").matches) document.querySelector(".menu")?.removeAttribute("open");
