"use strict";
// Draws the interactive figures from the numbers in the page, and shows values.
const find = (id) => document.getElementById(id);
const numbers = JSON.parse(find("numbers").textContent);
const decode = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
const map = numbers.viridis && decode(numbers.viridis);
const limited = (value, low, high) => Math.max(low, Math.min(high, value));
const digits = (value) => (value === null ? "–" : String(Number(value.toPrecision(4))));
const rounded = (value) => (value === null ? "–" : value.toFixed(2));

function make(tag, text = "", className = "") {
  return Object.assign(document.createElement(tag), { textContent: text, className });
}

function fill(select, names, chosen) {
  select.replaceChildren(...names.map((name) => new Option(name, name)));
  if (names.includes(chosen)) select.value = chosen;
}

function tell(text, x, y) {
  const tip = Object.assign(find("tip"), { textContent: text, hidden: false });
  tip.style.left = `${limited(x + 14, 4, innerWidth - tip.offsetWidth - 8)}px`;
  tip.style.top = `${limited(y + 14, 4, innerHeight - tip.offsetHeight - 8)}px`;
}

function hush() {
  find("tip").hidden = true;
}

// Curves: shows the values at the pointer's epoch or layer, or by the arrow keys.
function chart(svg) {
  const [number, count, left, right] = ["number", "count", "left", "right"].map((k) => +svg.dataset[k]);
  const { axis, names, first = 1, series } = numbers.curves[number];
  const cursor = svg.querySelector(".cursor");
  const scale = () => svg.getBoundingClientRect().width / svg.viewBox.baseVal.width;
  let place = count - 1;
  function show(chosen) {
    place = limited(chosen, 0, count - 1);
    const x = left + (right - left) * (count > 1 ? place / (count - 1) : 0.5);
    const lines = series
      .filter(({ mean }) => mean.length > place)
      .sort((a, b) => b.mean[place] - a.mean[place])
      .map(({ name, mean, low, high }) => {
        const [m, l, h] = [mean, low, high].map((of) => digits(of[place]));
        return `${name}  ${m}${l === h ? "" : ` [${l}, ${h}]`}`;
      });
    cursor.setAttribute("transform", `translate(${x})`);
    cursor.style.visibility = "visible";
    const box = svg.getBoundingClientRect();
    tell([`${axis} ${names ? names[place] : first + place}`, ...lines].join("\n"), box.left + x * scale(), box.top);
  }
  function point(event) {
    const x = (event.clientX - svg.getBoundingClientRect().left) / scale();
    show(Math.round(((x - left) / (right - left)) * (count - 1)));
  }
  function end() {
    cursor.style.visibility = "hidden";
    hush();
  }
  svg.addEventListener("pointermove", point);
  svg.addEventListener("pointerdown", point);
  svg.addEventListener("pointerleave", end);
  svg.addEventListener("blur", end);
  svg.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step) return;
    event.preventDefault();
    show(place + step);
  });
}

function legend(box) {
  box.addEventListener("change", ({ target }) => {
    for (const line of box.querySelectorAll(".series"))
      if (line.dataset.name === target.value) line.style.display = target.checked ? "" : "none";
  });
}

const longest = (names) => Math.max(...names.map((name) => String(name).length));

// Draws a square of n x n pixels with colours [red, green, blue, opacity].
function square(figure, title, n, classes, colour, words) {
  const canvas = Object.assign(make("canvas"), { width: n, height: n });
  const context = canvas.getContext("2d");
  const image = context.createImageData(n, n);
  for (let i = 0; i < n; i++)
    for (let j = 0; j < n; j++) image.data.set(colour(i, j), 4 * (i * n + j));
  context.putImageData(image, 0, 0);
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", title);
  canvas.addEventListener("pointermove", (event) => {
    const place = (part) => limited(Math.floor(n * part), 0, n - 1);
    const i = place(event.offsetY / canvas.clientHeight);
    tell(words(i, place(event.offsetX / canvas.clientWidth)), event.clientX, event.clientY);
  });
  canvas.addEventListener("pointerleave", hush);
  const box = make("div", "", "rdm");
  const [down, along] = [make("div", "", "down"), make("div", "", "along")];
  for (const edge of [down, along])
    for (let c = 0; c < classes; c++) edge.append(make("span", numbers.class_names[c]));
  if (classes && longest(numbers.class_names) > 2) along.classList.add("upright");
  box.append(down, canvas, along);
  figure.replaceChildren(make("figcaption", title), box);
}

// Fills a table: `cell` returns a cell's text, title, className and colours.
function matrix(table, rows, columns, cell) {
  const line = (...cells) => {
    const tr = make("tr");
    tr.append(...cells);
    return tr;
  };
  const head = (name, scope) => Object.assign(make("th", name), { scope });
  const body = rows.map((name, i) => {
    const cells = columns.map((_, j) => {
      const { text, title, className, back = "", front = "" } = cell(i, j);
      const td = Object.assign(make("td", text, className), { title });
      Object.assign(td.style, { background: back, color: front });
      return td;
    });
    return line(head(name, "row"), ...cells);
  });
  const [thead, tbody] = [make("thead"), make("tbody")];
  thead.append(line(make("td"), ...columns.map((name) => head(name, "col"))));
  tbody.append(...body);
  table.className = longest(columns) > 6 ? "matrix upright" : "matrix";
  table.replaceChildren(thead, tbody);
}

// Returns the cell of a correlation, with the colour map from 0 to 1.
function coloured(value, title, framed) {
  const about = { text: rounded(value), title, className: framed ? "framed" : "" };
  if (value === null) return about;
  const [r, g, b] = map.slice(3 * Math.round(255 * limited(value, 0, 1)));
  const linear = (of) => (of / 255 <= 0.04045 ? of / 3294.6 : ((of / 255 + 0.055) / 1.055) ** 2.4);
  // (Above this luminance black has the higher contrast.)
  const front = 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b) > 0.179 ? "#000" : "#fff";
  return { ...about, back: `rgb(${r} ${g} ${b})`, front };
}

// The bytes of 100 % and of a pair that was not measured, as in encoding.py.
const [FULL, MISSING] = [254, 255];

// Returns Pearson's correlation of percentiles, which is Spearman's of the distances.
// (Pairs that were not measured in both are left out; the others keep their percentiles.)
function correlation(x, y) {
  if (x?.length !== y?.length || !x) return null;
  const measured = (_, i) => x[i] !== MISSING && y[i] !== MISSING;
  [x, y] = [x.filter(measured), y.filter(measured)];
  const mean = (of) => of.reduce((sum, value) => sum + value, 0) / of.length;
  const [a, b] = [mean(x), mean(y)];
  let [xy, xx, yy] = [0, 0, 0];
  for (let i = 0; i < x.length; i++) {
    xy += (x[i] - a) * (y[i] - b);
    xx += (x[i] - a) ** 2;
    yy += (y[i] - b) ** 2;
  }
  return xx && yy ? xy / Math.sqrt(xx * yy) : null;
}

const stimuli_of = (bytes) => (1 + Math.sqrt(1 + 8 * bytes.length)) / 2;

// Draws a condensed RDM of percentiles; `name` returns the name of a stimulus.
function draw_rdm(figure, title, bytes, classes, name) {
  const n = stimuli_of(bytes);
  // (The place of the pair i < j in the condensed RDM.)
  const place = (i, j) => n * i - (i * (i + 1)) / 2 + j - i - 1;
  const value = (i, j) => (i === j ? 0 : bytes[place(Math.min(i, j), Math.max(i, j))]);
  const percent = (byte) => `percentile ${Math.round((100 * byte) / FULL)}`;
  const colour = (i, j) => {
    const byte = value(i, j);
    return byte === MISSING ? [224, 224, 224, 255] : [...map.slice(3 * byte, 3 * byte + 3), 255];
  };
  const words = (i, j) => {
    const byte = value(i, j);
    return `${name(i)}\n${name(j)}\n${byte === MISSING ? "not measured" : percent(byte)}`;
  };
  square(figure, title, n, classes, colour, words);
}

function rdms() {
  const nets = numbers.rdms;
  for (const { layers } of Object.values(nets))
    for (const name in layers) layers[name] = layers[name].map(decode);
  const [net, layer, other, slider] = ["net", "layer", "other", "epoch"].map((x) => find(`rdm-${x}`));
  const { teacher, ...students } = nets;
  const pairs = Object.fromEntries(numbers.compared);
  const partner = (name) => (net.value === "teacher" ? name : pairs[name] ?? name);
  const trained = (name) => teacher?.layers[name]?.at(-1);

  function draw_one(figure, title, bytes) {
    const n = stimuli_of(bytes);
    const classes = n % numbers.classes ? 0 : numbers.classes;
    const image = (i) =>
      `image ${i}${classes ? ` (${numbers.class_names[Math.floor((i * classes) / n)]})` : ""}`;
    draw_rdm(figure, title, bytes, classes, image);
  }

  function draw() {
    const { epochs, layers } = nets[net.value];
    const [names, when] = [Object.keys(layers), epochs.map((epoch) => epoch ?? "last")];
    const [bytes, now] = [layers[layer.value][slider.value], when[slider.value]];
    find("rdm-when").textContent = now;
    slider.setAttribute("aria-valuetext", `epoch ${now}`);
    draw_one(find("rdm-left"), `${net.value}, ${layer.value}, epoch ${now}`, bytes);
    if (!teacher) return;
    draw_one(find("rdm-right"), `teacher, ${other.value}, after training`, trained(other.value));
    const rho = rounded(correlation(bytes, trained(other.value)));
    find("rdm-rho").textContent =
      `Spearman’s correlation of the two: ${rho}.`;
    matrix(find("rdm-table"), names, when, (i, j) => {
      const value = correlation(layers[names[i]][j], trained(partner(names[i])));
      return coloured(value, "", names[i] === layer.value && j === +slider.value);
    });
  }

  function follow() {
    if (teacher) fill(other, Object.keys(teacher.layers), partner(layer.value));
    draw();
  }

  function choose() {
    const { epochs, layers } = nets[net.value];
    fill(layer, Object.keys(layers), layer.value || Object.keys(pairs).at(-1));
    slider.max = slider.value = epochs.length - 1;
    slider.disabled = epochs.length < 2;
    follow();
  }

  fill(net, [...Object.keys(students), ...(teacher ? ["teacher"] : [])], Object.keys(students).at(-1));
  net.addEventListener("change", choose);
  layer.addEventListener("change", follow);
  other?.addEventListener("change", draw);
  slider.addEventListener("input", draw);
  choose();
}

function similarity() {
  const { rows, columns, methods } = numbers.similarity;
  const [method, kind] = [find("similarity-method"), find("similarity-kind")];
  function draw() {
    matrix(find("similarity-table"), rows, columns, (i, j) => {
      const value = methods[method.value][kind.value][i][j];
      const framed = numbers.compared.some(([own, its]) => own === rows[i] && its === columns[j]);
      return coloured(value, `${rows[i]}, teacher’s ${columns[j]}: ${digits(value)}`, framed);
    });
  }
  fill(method, Object.keys(methods), Object.keys(methods).at(-1));
  method.addEventListener("change", draw);
  kind.addEventListener("change", draw);
  draw();
}

function confusion() {
  const { images, nets } = numbers.confusion;
  const students = Object.keys(nets).filter((name) => name !== "teacher");
  const classes = [...images.keys()];
  const names = numbers.class_names;
  const share = (name, i, j) => (images[i] ? (100 * nets[name][i][j]) / images[i] : 0);
  // One scale for the errors of all nets.
  let most = 1e-9;
  for (const name in nets)
    for (const i of classes)
      for (const j of classes) if (i !== j) most = Math.max(most, share(name, i, j));
  const opacity = (name, i, j) => (i === j ? 0 : 0.7 * Math.sqrt(share(name, i, j) / most));
  function draw_one(figure, name, title) {
    const words = (i, j) =>
      `${digits(nets[name][i][j])} of ${images[i]} images of class ${names[i]} predicted as ${names[j]} (${share(name, i, j).toFixed(1)} %)`;
    if (!numbers.classes) {
      const colour = (i, j) => [213, 94, 0, 255 * opacity(name, i, j)];
      square(figure, title, images.length, 0, colour, words);
      return;
    }
    const [box, table] = [make("div", "", "scroll"), make("table")];
    box.tabIndex = 0;
    box.setAttribute("role", "region");
    box.setAttribute("aria-label", `Confusion matrix: ${title}`);
    matrix(table, names, names, (i, j) => ({
      text: share(name, i, j) ? share(name, i, j).toFixed(1) : "·",
      title: words(i, j),
      className: i === j || !share(name, i, j) ? "quiet" : "",
      back: `rgb(213 94 0 / ${opacity(name, i, j)})`,
    }));
    box.append(table);
    figure.replaceChildren(make("figcaption", title), box);
  }
  const method = find("confusion-method");
  const draw = () => draw_one(find("confusion-left"), method.value, `${method.value}, mean over seeds`);
  fill(method, students, students.at(-1));
  method.addEventListener("change", draw);
  draw();
  if (nets.teacher) draw_one(find("confusion-right"), "teacher", "teacher");
}

// (For tests that check for errors of the script.)
addEventListener("error", (event) => (document.documentElement.dataset.error = event.message));
addEventListener("keydown", (event) => event.key === "Escape" && hush());
addEventListener("beforeprint", () => {
  for (const details of document.querySelectorAll("details")) details.open = true;
});
document.querySelectorAll("svg.chart").forEach(chart);
document.querySelectorAll(".lines").forEach(legend);
if (find("rdm-net")) rdms();
if (find("stimuli-layer")) stimuli();
for (const bar of document.querySelectorAll(".bar i")) {
  const ends = [0, 0.25, 0.5, 0.75, 1].map((part) => coloured(part).back);
  bar.style.background = `linear-gradient(90deg, ${ends})`;
}
if (find("similarity-method")) similarity();
if (find("confusion-method")) confusion();
document.documentElement.dataset.drawn = "yes";
