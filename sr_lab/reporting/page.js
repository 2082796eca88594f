"use strict";
// Sorting, copying, and the image viewer. Without this script the page still shows everything.
(() => {
  const byId = (id) => document.getElementById(id);
  const make = (tag, text = "") => Object.assign(document.createElement(tag), { textContent: text });

  // Tables: a click on a header sorts the rows of each block; missing values stay last.
  for (const table of document.querySelectorAll(".sortable")) {
    const heads = [...table.tHead.rows[table.tHead.rows.length - 1].cells];
    heads.forEach((head, index) => {
      const button = make("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const first = head.dataset.kind === "text" ? "ascending" : "descending";
        const order = head.getAttribute("aria-sort") !== first ? first
          : first === "ascending" ? "descending" : "ascending";
        heads.forEach((other) => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", order);
        const sign = order === "ascending" ? 1 : -1;
        const key = (row) => {
          const cell = row.cells[index];
          if (cell.dataset.v !== undefined) return Number(cell.dataset.v);
          const text = cell.textContent.trim();
          return text === "" || text === "-" ? null : isNaN(text) ? text : Number(text);
        };
        for (const body of table.tBodies) {
          const rows = [...body.querySelectorAll("tr.row")].map((row) => [key(row), row]);
          rows.sort(([a], [b]) => {
            if (a === null || b === null) return (a === null) - (b === null);
            if (typeof a === "number" && typeof b === "number") return sign * (a - b);
            return sign * String(a).localeCompare(String(b), undefined, { numeric: true });
          });
          body.append(...rows.map(([, row]) => row));
        }
      });
    });
  }

  // Commands: a button copies each command.
  for (const command of document.querySelectorAll(".command")) {
    const button = make("button", "Copy");
    button.type = "button";
    button.addEventListener("click", async () => {
      const code = command.querySelector("code");
      try {
        await navigator.clipboard.writeText(code.textContent);
      } catch {  // without permission, select the text and copy it
        getSelection().selectAllChildren(code);
        document.execCommand("copy");
      }
      button.textContent = "Copied";
      setTimeout(() => { button.textContent = "Copy"; }, 1500);
    });
    command.append(button);
  }

  // Bar charts: a tooltip shows the five worst images on hover or focus.
  const tip = byId("tip");
  const showTip = (chart) => {
    const { worst, against, count } = chart.dataset;
    const table = make("table");
    for (const [image, psnr, gain] of JSON.parse(worst)) {
      const row = table.insertRow();
      row.append(make("th", image), make("td", psnr), make("td", gain.replace("-", "−")));
    }
    const five = JSON.parse(worst).length;
    tip.replaceChildren(make("p", `${Number(count) > five ? `The ${five} worst of ${count} images` : "Images"} against ${against} [dB]`), table);
    tip.hidden = false;
    const { left, right, top, bottom } = chart.getBoundingClientRect();
    const x = Math.min(Math.max(8, (left + right - tip.offsetWidth) / 2), document.documentElement.clientWidth - tip.offsetWidth - 8);
    tip.style.left = `${x}px`;
    tip.style.top = `${bottom + 6 + tip.offsetHeight > innerHeight ? top - 6 - tip.offsetHeight : bottom + 6}px`;
  };
  const hideTip = () => { tip.hidden = true; };
  for (const chart of document.querySelectorAll(".chart")) {
    chart.setAttribute("aria-label", chart.title);
    chart.removeAttribute("title");
    for (const kind of ["pointerenter", "focus"]) chart.addEventListener(kind, () => showTip(chart));
    for (const kind of ["pointerleave", "blur"]) chart.addEventListener(kind, hideTip);
  }
  addEventListener("scroll", hideTip, { capture: true, passive: true });

  // Wide tables and plots: a hint while there is more to the right.
  for (const box of document.querySelectorAll(".scroll")) {
    const hint = Object.assign(make("p", "more to the right: scroll or swipe →"), { className: "hint", hidden: true });
    box.after(hint);
    const update = () => {
      const more = box.scrollWidth - box.clientWidth - box.scrollLeft > 4;
      box.classList.toggle("more", more);
      hint.hidden = box.scrollWidth - box.clientWidth <= 4;
      hint.style.visibility = more ? "visible" : "hidden";
    };
    box.addEventListener("scroll", update, { passive: true });
    new ResizeObserver(update).observe(box);
  }

  // Curves: hovering over or focusing a run in the legend hides the lines of all other runs.
  for (const key of document.querySelectorAll(".lines li")) {
    const only = (run) => document.querySelectorAll("#training [data-run]").forEach((element) => {
      element.classList.toggle("faint", run !== undefined && !element.dataset.run.split(" ").includes(run));
    });
    for (const kind of ["pointerenter", "focus"]) key.addEventListener(kind, () => only(key.dataset.run));
    for (const kind of ["pointerleave", "blur"]) key.addEventListener(kind, () => only());
  }

  const articles = [...document.querySelectorAll("#gallery article")];
  if (articles.length === 0) return;

  // The viewer: (x, y) is the HR pixel in the middle of every pane.
  const ERROR = "error map";
  const albums = articles.map((article) => ({
    key: `${article.dataset.set}/${article.dataset.image}@${article.dataset.scale}`,
    title: `${article.dataset.set} · ${article.dataset.image} ×${article.dataset.scale}`,
    width: Number(article.dataset.width),
    height: Number(article.dataset.height),
    overview: article.querySelector(".where"),
    shots: new Map([...article.querySelectorAll("figure[data-name]")].map((figure) => [figure.dataset.name, {
      image: (figure.dataset.same === undefined ? figure
        : [...article.querySelectorAll("figure")].find((other) => other.dataset.name === figure.dataset.same)).querySelector("img"),
      kind: figure.dataset.kind,
      psnr: Number(figure.dataset.psnr ?? NaN),
      ssim: Number(figure.dataset.ssim ?? NaN),
      score: figure.dataset.score ?? "",
    }])),
  }));
  const state = { album: albums[0], a: "", b: "", x: 0, y: 0, zoom: 1, split: 50, solo: "" };
  const pane = byId("pane");
  const names = () => [...state.album.shots.keys(), ERROR];
  const other = (side) => {
    const name = side === "a" ? state.b : state.a;
    const shot = state.album.shots.get(name);
    return shot?.kind === "sr" ? name : names()[1];
  };

  // The colour map cividis at five points, for errors from 0 to 10 % of the range.
  const MAP = [[0, 32, 77], [67, 78, 108], [124, 123, 120], [188, 174, 108], [255, 234, 70]];
  const errors = new Map();
  const pixels = async (image, width, height) => {
    await image.decode();
    const canvas = Object.assign(document.createElement("canvas"), { width, height });
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.drawImage(image, 0, 0);
    return [canvas, context, context.getImageData(0, 0, width, height)];
  };
  const copyOf = (source) => Object.assign(new Image(), { src: source });
  const errorOf = async (album, name) => {
    const key = `${album.key}\n${name}`;
    if (!errors.has(key)) {
      const hr = [...album.shots.values()].find((shot) => shot.kind === "hr");
      const [, , truth] = await pixels(copyOf(hr.image.src), album.width, album.height);
      const [canvas, context, own] = await pixels(copyOf(album.shots.get(name).image.src), album.width, album.height);
      for (let i = 0; i < own.data.length; i += 4) {
        let sum = 0;
        for (let c = 0; c < 3; c++) sum += Math.abs(own.data[i + c] - truth.data[i + c]);
        const place = Math.min(1, sum / 3 / 25.5) * 4;
        const low = Math.min(3, Math.floor(place));
        for (let c = 0; c < 3; c++) own.data[i + c] = MAP[low][c] + (place - low) * (MAP[low + 1][c] - MAP[low][c]);
      }
      context.putImageData(own, 0, 0);
      errors.set(key, canvas.toDataURL());
    }
    return errors.get(key);
  };

  // PSNR and SSIM of the visible crop, on luma from 16 to 235. A luma-only network saves its luma as grey.
  const WINDOW = Array.from({ length: 11 }, (_, i) => Math.exp(-((i - 5) ** 2) / 4.5));
  const SUM = WINDOW.reduce((sum, value) => sum + value, 0);
  const lumas = { album: null, of: new Map() };
  const lumaOf = async (album, name) => {
    if (lumas.album !== album) Object.assign(lumas, { album, of: new Map() });
    if (!lumas.of.has(name)) {
      const [, , { data }] = await pixels(copyOf(album.shots.get(name).image.src), album.width, album.height);
      const luma = new Float32Array(data.length / 4);
      const level = new Float32Array(data.length / 4);
      let grey = true;
      for (let i = 0, k = 0; k < data.length; i++, k += 4) {
        grey = grey && data[k] === data[k + 1] && data[k] === data[k + 2];
        level[i] = data[k];
        luma[i] = 16 + (65.481 * data[k] + 128.553 * data[k + 1] + 24.966 * data[k + 2]) / 255;
      }
      lumas.of.set(name, { luma, level, grey });
    }
    return lumas.of.get(name);
  };
  const cut = (values, stride, { left, top, width, height }) => {
    const part = new Float64Array(width * height);
    for (let y = 0; y < height; y++) {
      const start = (top + y) * stride + left;
      part.set(values.subarray(start, start + width), y * width);
    }
    return part;
  };
  const smooth = (values, width, height) => {  // only where the whole window is inside the image
    const wide = width - 10;
    const across = new Float64Array(wide * height);
    for (let y = 0; y < height; y++) {
      for (let x = 0; x < wide; x++) {
        let sum = 0;
        for (let k = 0; k < 11; k++) sum += WINDOW[k] * values[y * width + x + k];
        across[y * wide + x] = sum / SUM;
      }
    }
    const found = new Float64Array(wide * (height - 10));
    for (let i = 0; i < found.length; i++) {
      let sum = 0;
      for (let k = 0; k < 11; k++) sum += WINDOW[k] * across[i + k * wide];
      found[i] = sum / SUM;
    }
    return found;
  };
  const ssimOf = (one, two, width, height) => {
    if (width < 11 || height < 11) return NaN;
    const product = (a, b) => smooth(a.map((value, i) => value * b[i]), width, height);
    const [m, n] = [smooth(one, width, height), smooth(two, width, height)];
    const [mm, nn, mn] = [product(one, one), product(two, two), product(one, two)];
    let sum = 0;
    for (let i = 0; i < m.length; i++) {
      sum += (2 * m[i] * n[i] + 6.5025) * (2 * (mn[i] - m[i] * n[i]) + 58.5225)
        / ((m[i] ** 2 + n[i] ** 2 + 6.5025) * (mm[i] - m[i] ** 2 + nn[i] - n[i] ** 2 + 58.5225));
    }
    return sum / m.length;
  };
  const visibleCrop = () => {
    const { x, y, zoom, album } = state;
    const [wide, high] = [pane.clientWidth / zoom / 2, pane.clientHeight / zoom / 2];
    const left = Math.max(0, Math.round(x - wide));
    const top = Math.max(0, Math.round(y - high));
    return { left, top, width: Math.min(album.width, Math.round(x + wide)) - left, height: Math.min(album.height, Math.round(y + high)) - top };
  };
  const cropScore = async (album, name, box) => {
    if (album.shots.get(name)?.kind !== "sr" || box.width < 1 || box.height < 1) return null;
    const truth = await lumaOf(album, [...album.shots].find(([, shot]) => shot.kind === "hr")[0]);
    const own = await lumaOf(album, name);
    const one = cut(own.grey && !truth.grey ? own.level : own.luma, album.width, box);
    const two = cut(truth.luma, album.width, box);
    const error = one.reduce((sum, value, i) => sum + (value - two[i]) ** 2, 0) / one.length;
    return { psnr: 10 * Math.log10(255 ** 2 / error), ssim: ssimOf(one, two, box.width, box.height) };
  };
  const dB = (value) => (isFinite(value) ? value.toFixed(2) : "∞");
  const crops = { a: "", b: "", gain: "" };
  let measuring = 0;
  const measure = () => {
    clearTimeout(measuring);
    const own = measuring = setTimeout(async () => {
      const { album } = state;
      const box = visibleCrop();
      const found = {};
      for (const side of ["a", "b"]) {
        found[side] = await cropScore(album, state[side] === ERROR ? other(side) : state[side], box);
      }
      if (own !== measuring) return;  // the view has moved in the meantime
      for (const side of ["a", "b"]) {
        const score = found[side];
        crops[side] = score === null ? "" : `crop ${dB(score.psnr)} dB${isNaN(score.ssim) ? "" : ` / ${score.ssim.toFixed(4)}`}`;
      }
      const both = found.a && found.b && state.a !== ERROR && state.b !== ERROR;
      crops.gain = both ? `; visible crop of ${box.width}×${box.height}: ${signed(found.b.psnr - found.a.psnr, 2)} dB` : "";
      showScores();
    }, 120);
  };

  const show = (image, name, side) => {
    const { album } = state;
    const wanted = `${album.key}\n${name}\n${name === ERROR ? other(side) : ""}`;
    if (image.dataset.shown === wanted) return;
    image.dataset.shown = wanted;
    if (name !== ERROR) {
      image.src = album.shots.get(name).image.src;
      return;
    }
    errorOf(album, other(side)).then((source) => { if (image.dataset.shown === wanted) image.src = source; });
  };
  const place = (image, name, box) => {
    const { x, y, zoom, album } = state;
    image.style.width = `${album.width * zoom}px`;
    image.style.height = `${album.height * zoom}px`;
    image.style.left = `${Math.round(box.clientWidth / 2 - x * zoom)}px`;
    image.style.top = `${Math.round(box.clientHeight / 2 - y * zoom)}px`;
    image.classList.toggle("pixels", zoom >= 1 || album.shots.get(name)?.kind === "lr");
  };
  const label = (element, side) => {
    const name = state[side];
    element.replaceChildren(name === ERROR ? `${ERROR} of ${other(side)}` : name);
    const score = state.album.shots.get(name === ERROR ? other(side) : name).score;
    if (score) element.append(make("small", score));
    if (crops[side]) element.append(Object.assign(make("small", crops[side]), { className: "crop" }));
  };
  const gain = (album) => {
    const [left, right] = [album.shots.get(state.a), album.shots.get(state.b)];
    return left && right ? right.psnr - left.psnr : NaN;
  };
  const signed = (value, digits) => `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(digits)}`;

  const fillImages = () => {
    const order = [...albums];
    if (!order.some((album) => isNaN(gain(album)))) order.sort((one, two) => gain(two) - gain(one));
    byId("image").replaceChildren(...order.map((album) => {
      const difference = gain(album);
      const option = make("option", album.title + (isNaN(difference) ? "" : `   (${signed(difference, 2)} dB)`));
      option.value = album.key;
      option.selected = album === state.album;
      return option;
    }));
  };
  const fillMethods = () => {
    byId("where").replaceChildren(...[state.album.overview?.cloneNode(true)].filter(Boolean));
    byId("where").querySelector("image")?.removeAttribute("id");
    for (const side of ["a", "b"]) {
      byId(side).replaceChildren(...names().map((name) => {
        const option = make("option", name);
        option.value = name;
        option.selected = name === state[side];
        return option;
      }));
    }
    byId("strip").replaceChildren(...names().map((name) => {
      const button = make("button");
      button.type = "button";
      button.dataset.name = name;
      const box = make("div");
      box.className = "pane";
      const image = new Image();
      image.alt = "";
      image.draggable = false;
      box.append(image);
      button.append(box, name);
      const score = state.album.shots.get(name)?.score;
      if (score) button.append(make("small", score));
      drag(box);
      button.addEventListener("click", (event) => {
        if (moved) return;
        choose(event.shiftKey ? "a" : "b", name);
      });
      return button;
    }));
  };

  const showScores = () => {
    label(byId("tag-a"), "a");
    label(byId("tag-b"), "b");
    const [left, right] = [state.album.shots.get(state.a), state.album.shots.get(state.b)];
    byId("gain").textContent = left?.score && right?.score
      ? `${state.b} minus ${state.a}: ${signed(right.psnr - left.psnr, 2)} dB, SSIM ${signed(right.ssim - left.ssim, 4)}${crops.gain}`
      : " ";
  };
  const draw = () => {
    show(byId("left"), state.a, "a");
    show(byId("right"), state.b, "b");
    place(byId("left"), state.a, pane);
    place(byId("right"), state.b, pane);
    const split = state.solo === "a" ? 100 : state.solo === "b" ? 0 : state.split;
    byId("over").style.clipPath = `inset(0 0 0 ${split}%)`;
    byId("split").style.left = `${split}%`;
    byId("split").hidden = state.solo !== "";
    byId("slider").value = split;
    byId("tag-a").hidden = state.solo === "b";
    byId("tag-b").hidden = state.solo === "a";
    showScores();
    measure();
    byId("level").textContent = state.zoom >= 1 ? `×${Number(state.zoom.toFixed(2))}` : `${Math.round(100 * state.zoom)} %`;
    for (const button of byId("strip").children) {
      const { name } = button.dataset;
      const image = button.querySelector("img");
      show(image, name, "a");
      place(image, name, image.parentElement);
      button.setAttribute("aria-pressed", String(name === state.b || name === state.a));
    }
    writeAddress();
  };

  let timer = 0;
  let written = "";
  const writeAddress = () => {
    clearTimeout(timer);
    timer = setTimeout(() => {
      const { album, a, b, x, y, zoom, split } = state;
      const values = { img: album.key, a, b, x: x.toFixed(1), y: y.toFixed(1), z: zoom.toFixed(3), s: split };
      written = `#${new URLSearchParams(values)}`;
      history.replaceState(null, "", written);
    }, 200);
  };
  // The largest zoom up to this one at which an image pixel is a whole number of the screen's pixels.
  const wholePixels = (zoom) => Math.floor(zoom * devicePixelRatio + 1e-3) / devicePixelRatio;
  const readAddress = () => {
    const values = new URLSearchParams(location.hash.slice(1));
    const album = albums.find(({ key }) => key === values.get("img"));
    if (!album) return false;
    state.album = album;
    for (const side of ["a", "b"]) if (names().includes(values.get(side))) state[side] = values.get(side);
    const number = (key, low, high, fallback) => {
      const value = parseFloat(values.get(key));
      return isFinite(value) ? Math.min(high, Math.max(low, value)) : fallback;
    };
    const zoom = number("z", 1 / 16, 32, 1);
    state.zoom = zoom >= 1 ? wholePixels(zoom) : zoom;
    state.x = number("x", 0, album.width, album.width / 2);
    state.y = number("y", 0, album.height, album.height / 2);
    state.split = number("s", 0, 100, 50);
    return true;
  };

  const frame = () => { pane.style.aspectRatio = `${state.album.width} / ${state.album.height}`; };
  const fit = () => {
    const { width, height } = state.album;
    frame();
    const room = Math.min(pane.clientWidth / width, pane.clientHeight / height);
    state.zoom = room >= 1 ? wholePixels(room) : room;
    state.x = width / 2;
    state.y = height / 2;
    draw();
  };
  const move = (x, y) => {
    state.x = Math.min(state.album.width, Math.max(0, x));
    state.y = Math.min(state.album.height, Math.max(0, y));
    draw();
  };
  // Zooms by one level around the pixel under the pointer; dx and dy are measured from the middle of the pane.
  const step = (direction, dx = 0, dy = 0) => {
    const { zoom } = state;
    const next = direction > 0
      ? (zoom >= 1 ? Math.floor(zoom) + 1 : 1 / Math.max(1, Math.ceil(1 / zoom - 1e-6) - 1))
      : (zoom > 1 ? Math.ceil(zoom) - 1 : 1 / (Math.floor(1 / zoom + 1e-6) + 1));
    state.zoom = Math.min(32, Math.max(1 / 16, next));
    move(state.x + dx / zoom - dx / state.zoom, state.y + dy / zoom - dy / state.zoom);
  };
  const select = (album) => {
    state.album = album;
    if (!names().includes(state.a)) state.a = names()[1];
    if (!names().includes(state.b)) state.b = names()[2];
    fillMethods();
    fillImages();
    fit();
  };
  const choose = (side, name) => {
    state[side] = name;
    byId(side).value = name;
    fillImages();
    draw();
  };
  const turn = (by) => {
    const list = byId("image");
    list.selectedIndex = (list.selectedIndex + by + list.length) % list.length;
    select(albums.find(({ key }) => key === list.value));
  };

  // One finger or the mouse moves the image, two fingers zoom.
  let moved = false;
  const drag = (box) => {
    const points = new Map();
    let onSplit = false;
    let spread = 0;
    const distance = () => {
      const [one, two] = [...points.values()];
      return Math.hypot(one.x - two.x, one.y - two.y);
    };
    box.addEventListener("pointerdown", (event) => {
      if (event.button !== 0) return;
      moved = false;
      onSplit = event.target.id === "split";
      points.set(event.pointerId, { x: event.clientX, y: event.clientY });
      if (points.size === 2) spread = distance();
    });
    box.addEventListener("pointermove", (event) => {
      const before = points.get(event.pointerId);
      if (!before) return;
      const [dx, dy] = [event.clientX - before.x, event.clientY - before.y];
      if (!moved && Math.hypot(dx, dy) < 3) return;
      if (!moved) box.setPointerCapture(event.pointerId);
      moved = true;
      points.set(event.pointerId, { x: event.clientX, y: event.clientY });
      if (points.size === 2) {
        const ratio = distance() / spread;
        if (ratio > 1.25 || ratio < 0.8) {
          spread = distance();
          step(ratio > 1 ? 1 : -1);
        }
      } else if (onSplit) {
        const frame = box.getBoundingClientRect();
        state.split = Math.min(100, Math.max(0, 100 * (event.clientX - frame.left) / frame.width));
        draw();
      } else {
        move(state.x - dx / state.zoom, state.y - dy / state.zoom);
      }
    });
    for (const end of ["pointerup", "pointercancel"]) {
      box.addEventListener(end, (event) => points.delete(event.pointerId));
    }
  };
  drag(pane);
  const fromMiddle = (event) => {
    const frame = pane.getBoundingClientRect();
    return [event.clientX - frame.left - frame.width / 2, event.clientY - frame.top - frame.height / 2];
  };
  pane.addEventListener("wheel", (event) => {
    if (!event.ctrlKey && !event.metaKey && document.activeElement !== pane) return;  // let the page scroll
    event.preventDefault();
    step(event.deltaY < 0 ? 1 : -1, ...fromMiddle(event));
  }, { passive: false });
  pane.addEventListener("dblclick", (event) => step(event.shiftKey ? -1 : 1, ...fromMiddle(event)));

  byId("image").addEventListener("change", (event) => select(albums.find(({ key }) => key === event.target.value)));
  for (const side of ["a", "b"]) byId(side).addEventListener("change", (event) => choose(side, event.target.value));
  byId("slider").addEventListener("input", (event) => {
    state.split = Number(event.target.value);
    state.solo = "";
    draw();
  });
  byId("in").addEventListener("click", () => step(1));
  byId("out").addEventListener("click", () => step(-1));
  byId("fit").addEventListener("click", fit);
  addEventListener("resize", draw);
  addEventListener("hashchange", () => {
    if (location.hash === written || !readAddress()) return;
    frame();
    fillMethods();
    fillImages();
    draw();
  });

  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const inside = byId("viewer").contains(event.target);
    if (event.target.closest("select, input") || (event.target.closest("button, a") && event.key === " ")) return;
    const digit = /^Digit([1-9])$/.exec(event.code);
    if (event.key === "ArrowLeft" && !event.target.closest(".scroll")) turn(-1);
    else if (event.key === "ArrowRight" && !event.target.closest(".scroll")) turn(1);
    else if (event.key === " " && (inside || visible())) {
      state.solo = state.solo === "a" ? "b" : "a";
      draw();
    } else if (event.key === "Escape") {
      state.solo = "";
      draw();
    } else if (event.key === "z" || event.key === "Z") fit();
    else if (event.key === "+" || event.key === "=") step(1);
    else if (event.key === "-") step(-1);
    else if (digit && names()[digit[1] - 1]) choose(event.shiftKey ? "a" : "b", names()[digit[1] - 1]);
    else return;
    event.preventDefault();
  });
  const visible = () => {
    const { top, bottom } = pane.getBoundingClientRect();
    return bottom > 0 && top < innerHeight;
  };

  byId("viewer").hidden = false;
  byId("gallery").hidden = true;
  state.a = names()[1];
  // Start with bicubic on the left and the best run on the right.
  const runs = [...state.album.shots].filter(([, shot]) => shot.kind === "sr").slice(1);
  state.b = runs.reduce((best, run) => (run[1].psnr > best[1].psnr ? run : best))[0];
  if (readAddress()) {
    frame();
    fillMethods();
    fillImages();
    draw();
  } else select(state.album);
})();
