// Draws the RDMs of stimuli, and the stimuli in the plane, by layer. (Called by page.js.)
function stimuli() {
  const { layers, rdms, planes, agreement, held_out, tile } = numbers.brain;
  const choice = find("stimuli-layer");
  const sprite = numbers.brain.sprite && new Image();
  const [first] = Object.keys(agreement);
  const name = (i) =>
    `stimulus ${numbers.brain.stimuli[i]} (${held_out[i] ? "held out" : "shown in training"})`;

  function title(net) {
    const r = agreement[first]?.[net]?.[choice.value];
    return r === undefined ? net : `${net}, r = ${rounded(r)}`;
  }

  // Replaces the figures of a box by one for each net.
  function fill_box(box, of, draw_one) {
    const figures = Object.entries(of[choice.value]).map(([net, content]) => {
      const figure = make("figure");
      draw_one(figure, title(net), content);
      return figure;
    });
    box.replaceChildren(...figures);
  }

  function draw_plane(figure, words, places) {
    const size = 640;
    const canvas = Object.assign(make("canvas"), { width: size, height: size, className: "plane" });
    const context = canvas.getContext("2d");
    const most = Math.max(...places.flat().map(Math.abs)) || 1;
    const at = places.map(([x, y]) => [1 + x / most, 1 - y / most].map((u) => tile / 2 + (u * (size - tile)) / 2));
    at.forEach(([x, y], i) => {
      const corner = [x - tile / 2, y - tile / 2];
      if (sprite) context.drawImage(sprite, tile * i, 0, tile, tile, ...corner, tile, tile);
      else context.fillRect(x - 5, y - 5, 10, 10);
    });
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", `The stimuli in the plane: ${words}`);
    canvas.addEventListener("pointermove", (event) => {
      const scale = size / canvas.clientWidth;
      const away = at.map(([x, y]) => Math.hypot(x - scale * event.offsetX, y - scale * event.offsetY));
      tell(name(away.indexOf(Math.min(...away))), event.clientX, event.clientY);
    });
    canvas.addEventListener("pointerleave", hush);
    figure.replaceChildren(make("figcaption", words), canvas);
  }

  function draw() {
    fill_box(find("stimuli-rdms"), rdms, (figure, words, text) =>
      draw_rdm(figure, words, decode(text), 0, name));
    fill_box(find("stimuli-planes"), planes, draw_plane);
  }

  fill(choice, layers, layers.at(-1));
  choice.addEventListener("change", draw);
  if (sprite) {
    sprite.addEventListener("load", draw);
    sprite.src = `data:image/png;base64,${numbers.brain.sprite}`;
  } else draw();
}
