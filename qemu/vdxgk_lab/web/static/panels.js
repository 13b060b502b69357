// The tables beside the picture. Rows are kept, and changed only where their object did.

import { element, paint, setText } from "./dom.js";
import { address, clock, count, plural, serial, size } from "./format.js";

const TYPES = { CONTIGUOUS_MEMORY: "CONTIGUOUS" };

const REASONS = {
  UNMAPPED: "nothing is mapped there",
  FORBIDDEN: "the mapping does not allow it",
  ADDRESS_WIDTH: "beyond the device's address width",
  BUS_MASTER_OFF: "bus mastering is off",
  REFUSED: "the hypervisor refused it",
  INACCESSIBLE: "mapped without a descriptor",
};

const LISTS_SHOWN = 4;

/** The lines of the header. */
export function showFacts(state) {
  const { adapter, machine } = state;
  const facts = [];
  if (adapter) {
    const modes = adapter.adapters.map((item) => item.mode);
    facts.push(adapter.connected ? "QEMU connected" : "no QEMU");
    facts.push(modes.length ? `${modes.join(", ")} mode` : "driver not started");
    facts.push(`${adapter.dma_bits} address bits`);
    if (adapter.guest_ram.bytes) {
      facts.push(`guest ${size(adapter.guest_ram.bytes)}`);
    }
  }
  listFacts(document.getElementById("adapter"), facts);
  listFacts(document.getElementById("machine"), Object.values(machine ?? {}));
}

function listFacts(place, facts) {
  if (place.dataset.shown !== facts.join("\n")) {
    place.dataset.shown = facts.join("\n");
    place.replaceChildren(...facts.map((text) => element("span", { text })));
  }
}

/** The row of numbers. */
export function showCounters(adapter) {
  const place = document.getElementById("counters");
  const { engine } = adapter;
  const tiles = [
    ["mapped", count(adapter.dma_mappings), "mappings that QEMU has announced and not withdrawn"],
    ["maps", count(adapter.dma_maps), "DMA_MAP messages so far"],
    ["unmaps", count(adapter.dma_unmaps), "DMA_UNMAP messages so far"],
    ["GPU read", size(engine.bytes_read), "bytes that the DMA engine has read"],
    ["GPU wrote", size(engine.bytes_written), "bytes that the DMA engine has written"],
    [
      "donated",
      size(adapter.donated_bytes),
      `guest memory for objects, ${size(adapter.free_bytes)} of it free`,
    ],
  ];
  if (!place.children.length) {
    for (const [name, , title] of tiles) {
      const value = element("output", { "aria-label": name });
      place.append(element("div", { class: "tile", title }, value, element("span", { text: name })));
    }
  }
  tiles.forEach(([, value, title], index) => {
    const tile = place.children[index];
    tile.title = title;
    setText(tile.firstChild, value);
  });
}

// ---- objects ----------------------------------------------------------------

const bodies = new Map();

/** One group of rows for each object, newest first. */
export function showObjects(adapter) {
  const section = document.getElementById("objects");
  const table = section.querySelector("table");
  const objects = adapter.objects ?? {};
  for (const [handle, body] of bodies) {
    if (!(handle in objects)) {
      body.remove();
      bodies.delete(handle);
    }
  }
  const handles = Object.keys(objects).sort((a, b) => serial(a) - serial(b));
  for (const handle of handles) {
    let body = bodies.get(handle);
    if (!body) {
      body = paint(element("tbody", { "data-object": handle }), serial(handle));
      bodies.set(handle, body);
      table.tHead.after(body);
    }
    if (body.shown !== objects[handle]) {
      body.shown = objects[handle];
      fillObject(body);
    }
  }
  section.classList.toggle("none", !handles.length);
  const hidden = adapter.object_count - handles.length;
  const parts = [plural(adapter.object_count, "object"), plural(adapter.list_count, "list")];
  if (hidden > 0) {
    parts.push(`the newest ${count(handles.length)} shown`);
  }
  setText(document.getElementById("objects-total"), parts.join(", "));
}

function fillObject(body) {
  const object = body.shown;
  const open = body.open === true;
  const toggle = element(
    "button",
    { type: "button", class: "toggle", "aria-expanded": String(open), title: "runs, cache, handles" },
    element("span", { class: "swatch" }),
    `#${serial(object.handle)}`,
  );
  toggle.addEventListener("click", () => {
    body.open = !open;
    fillObject(body);
    body.querySelector("button").focus();
  });
  const type = element("small", { text: TYPES[object.type] ?? object.type });
  const rows = [
    element(
      "tr",
      {},
      element("th", { scope: "row" }, toggle, type),
      element("td", { class: "number", text: size(object.size) }),
      element("td", {}, ...runs(object)),
      element("td", {}, ...lists(object, open)),
    ),
  ];
  if (open) {
    const cell = element("td", { colspan: 4 }, details(object));
    rows.push(element("tr", { class: "details" }, cell));
  }
  body.replaceChildren(...rows);
}

function runs(object) {
  if (!object.run_count) {
    return [element("span", { class: "quiet", text: "not in use yet" })];
  }
  const first = object.runs.map(([base]) => element("code", { text: address(base) })).slice(0, 1);
  return [...first, element("small", { text: plural(object.run_count, "run") })];
}

function lists(object, all) {
  const held = object.lists ?? [];
  if (!held.length) {
    return [element("span", { class: "quiet", text: "no list" })];
  }
  const shown = all ? held : held.slice(-LISTS_SHOWN);
  const lines = shown.map(listLine);
  const missing = object.list_count - shown.length;
  if (missing > 0) {
    lines.push(element("small", { text: `and ${plural(missing, "older list")}` }));
  }
  return lines;
}

function listLine(list) {
  const end = BigInt(list.logical) + BigInt(list.size);
  const range = list.in_a_row
    ? `${address(list.logical)}\u2013${address(end)}`
    : `${address(list.logical)} and others`;
  const line = element("div", { class: "line", "data-list": list.handle }, element("code", { text: range }));
  if (list.state !== "live") {
    line.append(element("b", { class: "state", text: list.state }));
  }
  const title = `mappings that the IOMMU announced; the list has ${plural(list.mappings, "piece")}`;
  line.append(element("span", { class: "number", title, text: count(list.announced) }));
  return line;
}

function details(object) {
  const facts = [
    ["handle", address(object.handle)],
    ["adapter object", object.adapter_object ? address(object.adapter_object) : "not open"],
    ["cache", object.cache.toLowerCase()],
    ["pages", object.locked ? "locked" : "unlocked"],
    ["CPU views", count(object.cpu_mappings)],
  ];
  const shown = object.runs.map(([base, length]) => `${address(base)} ${size(length)}`);
  if (object.run_count > shown.length) {
    shown.push(`and ${plural(object.run_count - shown.length, "more run")}`);
  }
  const list = element("dl");
  for (const [name, value] of facts) {
    list.append(element("div", {}, element("dt", { text: name }), element("dd", { text: value })));
  }
  const places = shown.map((text) => element("code", { text }));
  list.append(element("div", { class: "wide" }, element("dt", { text: "runs" }), element("dd", {}, ...places)));
  return list;
}

// ---- faults -------------------------------------------------------------------

let faultsShown;

/** The newest first. */
export function showFaults({ count: total, last }) {
  if (faultsShown === last) {
    return;
  }
  const before = faultsShown?.at(-1)?.time ?? (faultsShown ? 0 : Infinity);
  faultsShown = last;
  const section = document.getElementById("faults");
  section.classList.toggle("none", !last.length);
  setText(document.getElementById("faults-total"), total ? plural(total, "refusal") : "none");
  const items = last.toReversed().map((fault) => faultItem(fault, fault.time > before));
  section.querySelector("ol").replaceChildren(...items);
}

function faultItem(fault, fresh) {
  return element(
    "li",
    { class: fresh ? "fresh" : undefined },
    element("time", { text: clock(fault.time) }),
    element("b", { class: fault.access, text: fault.access }),
    element("code", { text: address(fault.address) }),
    element("span", { text: REASONS[fault.reason] ?? fault.reason, title: `${size(fault.size)} asked for` }),
  );
}
