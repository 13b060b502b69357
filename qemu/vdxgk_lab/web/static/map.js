// The logical address space: to scale, and below as a strip in which small things can be seen.

import { element, paint, setText } from "./dom.js";
import { address, plural, serial, size } from "./format.js";

const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 1000;
const TICKS = 4;

let shown = {};

/** Draw it for the first adapter that has one. */
export function showMap(adapter) {
  const { adapters, objects = {} } = adapter;
  if (shown.adapters === adapters && shown.objects === objects) {
    return;
  }
  shown = { adapters, objects };
  const space = adapters.find((item) => item.space)?.space;
  const section = document.getElementById("map");
  section.classList.toggle("none", !space);
  if (!space) {
    setText(document.getElementById("space"), withoutSpace(adapters));
    document.getElementById("overview").replaceChildren();
    document.getElementById("strip").replaceChildren();
    return;
  }
  const lists = Object.values(objects)
    .flatMap((object) => (object.lists ?? []).map((list) => span("list", list.logical, list.size, { object, list })))
    .sort(byStart);
  const end = BigInt(space.end) + 1n;
  const reserved = joined(
    (space.reserved ?? [])
      .map(([base, length]) => span("reserved", base, length))
      .filter((item) => item.start < end)
      .sort(byStart),
  );
  const missing = adapter.list_count - lists.length;
  const parts = [`${address(space.start)} to ${address(space.end)}`, `${size(space.free_bytes)} free`];
  if (missing > 0) {
    parts.push(`${plural(missing, "older list")} not drawn`);
  }
  setText(document.getElementById("space"), parts.join(", "));
  drawOverview(lists, reserved, BigInt(space.start), end);
  drawStrip(segments(lists, reserved, BigInt(space.start), end, BigInt(space.guard)));
}

function withoutSpace(adapters) {
  if (!adapters.length) {
    return "the driver has not started an adapter";
  }
  return "physical mode: the GPU uses guest-physical addresses";
}

function span(kind, start, length, more = {}) {
  const base = BigInt(start);
  return { kind, start: base, end: base + BigInt(length), ...more };
}

function byStart(a, b) {
  return a.start < b.start ? -1 : a.start > b.start ? 1 : 0;
}

/** Sorted spans, with those that overlap or touch made one. */
function joined(spans) {
  const found = [];
  for (const item of spans) {
    const last = found.at(-1);
    if (last && item.start <= last.end) {
      last.end = item.end > last.end ? item.end : last.end;
    } else {
      found.push(item);
    }
  }
  return found;
}

// ---- to scale -------------------------------------------------------------------

function drawOverview(lists, reserved, start, end) {
  const drawing = document.createElementNS(SVG, "svg");
  drawing.setAttribute("viewBox", `0 0 ${WIDTH} 12`);
  drawing.setAttribute("preserveAspectRatio", "none");
  drawing.setAttribute("aria-hidden", "true");
  const scale = WIDTH / Number(end);
  const bar = (item, smallest) => {
    const rect = document.createElementNS(SVG, "rect");
    rect.setAttribute("x", String(Number(item.start) * scale));
    rect.setAttribute("width", String(Math.max(Number(item.end - item.start) * scale, smallest)));
    rect.setAttribute("height", "12");
    rect.setAttribute("class", item.kind);
    drawing.append(rect);
    return rect;
  };
  bar({ kind: "reserved", start: 0n, end: start }, 0);
  reserved.forEach((item) => bar(item, 1.5));
  lists.forEach((item) => paint(bar(item, 2), serial(item.object.handle)));
  const ticks = element("div", { class: "ticks", "aria-hidden": "true" });
  for (let tick = 0; tick <= TICKS; tick += 1) {
    ticks.append(element("span", { text: tick ? size((end * BigInt(tick)) / BigInt(TICKS)) : "0" }));
  }
  document.getElementById("overview").replaceChildren(drawing, ticks);
}

// ---- so that small things can be seen ------------------------------------------

/** Everything in address order; what lies between lists is guard space, or free with guards. */
function segments(lists, reserved, start, end, guard) {
  const found = [{ kind: "reserved", start: 0n, end: start, note: "never handed out" }];
  let previous = found[0];
  const fill = (next) => {
    const from = previous.end;
    const to = next.start;
    const before = previous.kind === "list" ? guard : 0n;
    const after = next.kind === "list" ? guard : 0n;
    if (to - from <= before + after) {
      if (to > from) {
        found.push({ kind: "guard", start: from, end: to });
      }
      return;
    }
    const parts = [
      { kind: "guard", start: from, end: from + before },
      { kind: "free", start: from + before, end: to - after },
      { kind: "guard", start: to - after, end: to },
    ];
    found.push(...parts.filter((part) => part.end > part.start));
  };
  for (const item of [...lists, ...reserved].sort(byStart)) {
    fill(item);
    found.push(item);
    previous = item;
  }
  fill({ kind: "end", start: end });
  return found;
}

function drawStrip(found) {
  const strip = document.getElementById("strip");
  strip.replaceChildren(...found.map(drawSegment));
}

function drawSegment(item) {
  const bytes = item.end - item.start;
  const range = `${address(item.start)}\u2013${address(item.end)}`;
  const what = item.object
    ? `#${serial(item.object.handle)} ${item.object.type}, ${item.list.state}`
    : (item.note ?? { guard: "guard, nothing is mapped", free: "free", reserved: "reserved" }[item.kind]);
  const state = item.list && item.list.state !== "live" ? " moving" : "";
  const segment = element("div", { class: item.kind + state, title: `${range}\n${size(bytes)}: ${what}` });
  if (item.object) {
    paint(segment, serial(item.object.handle));
    segment.dataset.object = item.object.handle;
    segment.append(element("b", { text: `#${serial(item.object.handle)}` }), element("span", { text: size(bytes) }));
  } else if (item.kind === "free") {
    segment.append(element("span", { text: size(bytes) }));
  }
  if (item.kind === "list") {
    segment.style.flexGrow = String(2 + Math.log2(Number(bytes) / 4096));
  }
  return segment;
}
